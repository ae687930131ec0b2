#!/bin/bash
# Builds the image of both roles: interop/image.sh [NAME]     (default: trunkline-interop)
#
# Needs cargo, docker, debootstrap and root for it; MIRROR, if set, is the mirror of Debian to use. The base is this machine's release of Debian
# (SUITE), so that the programs find the C library they were linked with; on another system set SUITE and BINARIES, a folder
# with interop-endpoint and interop-client built there. BASE_ONLY=folder stops after the base system is in that folder.
set -euo pipefail
cd "$(dirname "$0")/.."

name=${1:-trunkline-interop}
suite=${SUITE:-$(. /etc/os-release && echo "$VERSION_CODENAME")}
base=trunkline-interop-base:$suite
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

debian() { debootstrap --variant=minbase --include=iproute2,ethtool "$suite" "$1" ${MIRROR:+"$MIRROR"}; }

if [ -n "${BASE_ONLY:-}" ]; then
  debian "$BASE_ONLY"
  exit
fi
if ! docker image inspect "$base" > /dev/null 2>&1; then
  debian "$work/base"
  tar -C "$work/base" --one-file-system -c . | docker import - "$base"
fi

if [ -z "${BINARIES:-}" ]; then
  cargo build --release --features interop --bin interop-endpoint --bin interop-client
  BINARIES=target/release
fi
mkdir "$work/image"
cp "$BINARIES/interop-endpoint" "$BINARIES/interop-client" interop/run_endpoint.sh "$work/image/"
docker build --build-arg "BASE=$base" -f interop/Dockerfile -t "$name" "$work/image"
