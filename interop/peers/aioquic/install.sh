#!/bin/sh
# Prints the path of a Python that has aioquic; the first time it makes a virtual environment under target/tools for it.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
tools=${TRUNKLINE_TOOLS:-$here/../../../target/tools}
mkdir -p "$tools"
home=$(cd "$tools" && pwd)/aioquic
sh "$here/../venv.sh" "$home" "$here/requirements.txt"
echo "$home/bin/python"
