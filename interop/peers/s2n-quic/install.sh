#!/bin/sh
# Builds the peer into target/tools and prints its path. Its crates are fetched and compiled the first time.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
tools=${TRUNKLINE_TOOLS:-$here/../../../target/tools}
mkdir -p "$tools"
target=$(cd "$tools" && pwd)/s2n-quic
"${CARGO:-cargo}" build --quiet --release --locked --manifest-path "$here/Cargo.toml" --target-dir "$target" >&2
echo "$target/release/interop-s2n-quic"
