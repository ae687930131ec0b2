#!/bin/sh
# Builds the peer into target/tools and prints its path. Its crates are fetched and compiled the first time, and BoringSSL among
# them, which wants a C++ compiler, git, CMake and libclang; the last two come from PyPI, in a virtual environment.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
tools=${TRUNKLINE_TOOLS:-$here/../../../target/tools}
mkdir -p "$tools"
target=$(cd "$tools" && pwd)/quiche
python=$target/python
sh "$here/../venv.sh" "$python" "$here/requirements.txt"
PATH=$python/bin:$PATH
LIBCLANG_PATH=$(dirname "$(find "$python" -name libclang.so)")
# That libclang has no headers of its own; the compiler's do.
BINDGEN_EXTRA_CLANG_ARGS=-I$(cc -print-file-name=include)
export PATH LIBCLANG_PATH BINDGEN_EXTRA_CLANG_ARGS
"${CARGO:-cargo}" build --quiet --release --locked --manifest-path "$here/Cargo.toml" --target-dir "$target" >&2
echo "$target/release/interop-quiche"
