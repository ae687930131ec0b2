#!/bin/sh
# Builds edge and origin as they are released, guided by a profile: where the compiler knows what is hot, what is not
# stays out of the way. Prints the folder with them, target/released.
#
#   benches/release.sh
#
# 1. builds the programs with counters in them; 2. puts load of every kind on them, and outages, for about two minutes, as
# `make bench` and `make demo` do; 3. builds them again with what was counted; 4. runs the demo with its outages on what came
# out: programs that fail a request are not kept. A profile belongs to one compiler and one set of sources, so none is
# committed. Takes a quarter of an hour on two cores. LLVM_PROFDATA names the llvm-profdata to use, of the LLVM that
# rustc has or a newer one; without it that of rustup's component llvm-tools is taken, or one on the PATH.
set -eu
cd "$(dirname "$0")/.."

fail() { echo "release.sh: $*" >&2; exit 1; }

cargo=${CARGO:-cargo}
rustc=${RUSTC:-rustc}
target=${CARGO_TARGET_DIR:-$PWD/target}
host=$($rustc -vV | sed -n 's/^host: //p')
llvm=$($rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')

# Whether $1 can be run and is of an LLVM that reads what this compiler's programs write.
fits() {
  version=$("$1" merge --version 2> /dev/null | sed -n 's/.*LLVM version \([0-9]*\).*/\1/p')
  [ -n "$version" ] && [ "$version" -ge "$llvm" ]
}

profdata=
for candidate in ${LLVM_PROFDATA:-"$($rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata" "llvm-profdata-$llvm" llvm-profdata}; do
  if [ -z "$profdata" ] && fits "$candidate"; then profdata=$candidate; fi
done
[ -n "$profdata" ] || fail "no llvm-profdata of LLVM $llvm or newer: rustup component add llvm-tools, or Debian's llvm-$llvm"

work=$target/guided
built=$work/$host/release
rm -rf "$work/counted" "$work/released"
mkdir -p "$work/counted" "$work/released"

# `--target` keeps the flags away from build scripts and macros.
build() { RUSTFLAGS="${RUSTFLAGS:-} $1" $cargo build --release --bins --target "$host" --target-dir "$work"; }

build "-Cprofile-generate=$work/counted"
BENCH_PROGRAMS=$built $cargo bench --profile dev --bench chain -- train
"$built/edge" dev --outages --for 20s
"$profdata" merge -o "$work/profile" "$work"/counted/*.profraw
most=$("$profdata" show "$work/profile" | sed -n 's/^Maximum function count: //p')
[ "${most:-0}" -gt 1000000 ] || fail "the counters say that nothing was done (${most:-0} calls at most): no program ended in order"

build "-Cprofile-use=$work/profile"
cp "$built/edge" "$built/origin" "$work/released/"
"$work/released/edge" dev --outages --for 20s
rm -rf "$target/released"
mv "$work/released" "$target/released"
echo "$target/released"
