#!/bin/sh
# venv.sh FOLDER REQUIREMENTS: a virtual environment with these packages, made the first time and when they change.
set -eu
mkdir -p "$(dirname "$1")"
exec 9> "$1.lock"
flock 9
if ! cmp -s "$2" "$1/.done"; then
  rm -rf "$1"
  python3 -m venv "$1" >&2
  "$1/bin/pip" install --quiet --disable-pip-version-check -r "$2" >&2
  cp "$2" "$1/.done"
fi
