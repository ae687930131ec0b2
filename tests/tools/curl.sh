#!/bin/sh
# Prints the path of a curl that speaks HTTP/3: TRUNKLINE_CURL if set, else the machine's own if it can, else Debian
# sid's, unpacked into target/tools/curl by debian.sh (nothing is installed, no root needed).
set -eu

speaks_http3() { "$1" --version 2> /dev/null | grep -q '^Features:.*\bHTTP3\b'; }

here=$(cd "$(dirname "$0")" && pwd)
for candidate in "${TRUNKLINE_CURL:-}" "$(command -v curl || true)"; do
  if [ -n "$candidate" ] && speaks_http3 "$candidate"; then
    echo "$candidate"
    exit 0
  fi
done

bin=$("$here/debian.sh" curl)
speaks_http3 "$bin/curl" || { echo "curl.sh: $bin/curl has no HTTP/3" >&2; exit 1; }
echo "$bin/curl"
