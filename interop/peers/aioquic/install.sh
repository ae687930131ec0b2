#!/bin/sh
# Prints the path of a Python that has aioquic; the first time it makes a virtual environment under target/tools for it.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
tools=${TRUNKLINE_TOOLS:-$here/../../../target/tools}
mkdir -p "$tools"
home=$(cd "$tools" && pwd)/aioquic
exec 9> "$home.lock"
flock 9
if ! cmp -s "$here/requirements.txt" "$home/.done"; then
  rm -rf "$home"
  python3 -m venv "$home" >&2
  "$home/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt" >&2
  cp "$here/requirements.txt" "$home/.done"
fi
echo "$home/bin/python"
