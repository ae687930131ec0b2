#!/bin/sh
# Brings programs from Debian sid into target/tools/NAME, without root and without touching the system.
#
#   tests/tools/debian.sh PACKAGE [MORE-PACKAGES…]     prints target/tools/PACKAGE/bin, as an absolute path
#   tests/tools/debian.sh --root PACKAGE…              prints target/tools/PACKAGE/root instead, for programs that only
#                                                      run with their files at their own paths (in a chroot)
#   tests/tools/debian.sh --suite SUITE PACKAGE…       from another suite than sid
#
# The packages and all libraries they need, down to libc, are downloaded with the machine's own apt (a private state
# folder, an empty package status, signatures checked) and unpacked with dpkg -x. Each program of the named packages
# gets a wrapper in bin/ that starts it through its own ld.so and libraries; nothing is ever installed. The second run
# only prints. The mirror is that of the machine's apt sources, or TRUNKLINE_DEBIAN_MIRROR; TRUNKLINE_DEBIAN_SUITE is
# the suite (default sid); TRUNKLINE_TOOLS is the folder (default target/tools).
set -eu

fail() { echo "debian.sh: $*" >&2; exit 1; }

result=bin
suite=${TRUNKLINE_DEBIAN_SUITE:-sid}
if [ "${1:-}" = --root ]; then
  result=root
  shift
fi
if [ "${1:-}" = --suite ]; then
  suite=${2:?}
  shift 2
fi
[ $# -ge 1 ] || fail "usage: debian.sh [--root] [--suite SUITE] PACKAGE…"
for command in apt-get apt-config dpkg flock; do
  command -v $command > /dev/null || fail "$command is needed (this works on Debian and Ubuntu)"
done

repo=$(cd "$(dirname "$0")/../.." && pwd)
tools=${TRUNKLINE_TOOLS:-$repo/target/tools}
mkdir -p "$tools"
tools=$(cd "$tools" && pwd)
name=$1
dest=$tools/$name
wanted="$suite $*"

if [ "$(cat "$dest/.done" 2> /dev/null)" = "$wanted" ]; then
  echo "$dest/$result"
  exit 0
fi

# Tests run side by side; one of them fetches.
exec 9> "$tools/.lock"
flock 9
if [ "$(cat "$dest/.done" 2> /dev/null)" = "$wanted" ]; then
  echo "$dest/$result"
  exit 0
fi

# The first Debian archive (not security, not another vendor's) among the machine's sources, in both of their forms.
# It must be asked for a suite by name: a mirror of something else has no sid.
mirrors() {
  [ -z "${TRUNKLINE_DEBIAN_MIRROR:-}" ] || echo "$TRUNKLINE_DEBIAN_MIRROR"
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [ ! -r "$file" ] || sed -n 's/^[[:space:]]*deb[[:space:]]\{1,\}\(\[[^]]*\][[:space:]]*\)\{0,1\}\([^[:space:]]*\).*/\2/p' "$file"
  done
  for file in /etc/apt/sources.list.d/*.sources; do
    [ ! -r "$file" ] || sed -n 's/^[Uu][Rr][Ii]s:[[:space:]]*//p' "$file" | tr ' ' '\n'
  done
}
mirror=$(mirrors | grep -E '/debian/?$' | head -n 1 || true)
[ -n "$mirror" ] || fail "no Debian archive in the machine's apt sources; set TRUNKLINE_DEBIAN_MIRROR"

keyring=
for file in /usr/share/keyrings/debian-archive-keyring.gpg /usr/share/keyrings/debian-archive-keyring.pgp; do
  [ ! -r "$file" ] || keyring=$file
done
[ -n "$keyring" ] || fail "no Debian archive keyring (package debian-archive-keyring)"

# A private apt: only how to reach a mirror (proxies, age of its index) is taken from the machine's settings, none of its hooks.
apt=$tools/.apt-$suite
mkdir -p "$apt/lists/partial" "$apt/archives/partial"
: > "$apt/status"
echo "deb [signed-by=$keyring] $mirror $suite main" > "$apt/sources.list"
{
  apt-config dump | grep -E '^Acquire::(http|https|socks|ForceIPv4|ForceIPv6|Check-Valid-Until|Max-FutureTime)' || true
  cat << END
Dir::Etc::Parts "/dev/null";
Dir::Etc::Main "/dev/null";
Dir::Etc::SourceList "$apt/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State "$apt";
Dir::State::Lists "$apt/lists";
Dir::State::Status "$apt/status";
Dir::Cache "$apt";
Dir::Cache::Archives "$apt/archives";
Dir::Log "$apt";
Acquire::Languages "none";
Acquire::Retries "3";
APT::Sandbox::User "";
APT::Install-Recommends "false";
Debug::NoLocking "true";
END
} > "$apt/apt.conf"
APT_CONFIG=$apt/apt.conf
export APT_CONFIG

{
  apt-get -q update && apt-get -q -y --download-only -o Dir::Cache::Archives="$apt/archives" install "$@"
} > "$apt/log" 2>&1 || { cat "$apt/log" >&2; fail "apt could not fetch $* from $mirror $suite"; }

# What apt would install now, that is: this and only this is unpacked (the cache may hold other tools' packages).
rm -rf "$dest.new"
mkdir -p "$dest.new/root" "$dest.new/bin"
apt-get -q -y --print-uris -o Dir::Cache::Archives="$apt/none" install "$@" 2> /dev/null \
  | sed -n "s/^'[^']*' \([^ ]*\) .*/\1/p" > "$dest.new/packages" || true
while read -r deb; do
  dpkg -x "$apt/archives/$deb" "$dest.new/root" || fail "cannot unpack $deb"
done < "$dest.new/packages"
[ -s "$dest.new/packages" ] || fail "apt named no packages for $*"

root=$dest/root
triplet=$(cd "$dest.new/root/usr/lib" && ls -d *-linux-gnu* | head -n 1)
loader=$(cd "$dest.new/root" && find . -name 'ld-linux*.so.*' | sed 's/^\.//' | grep "/$triplet/" | head -n 1)
[ -n "$loader" ] || fail "no ld.so among the packages of $*"
libraries=$(cd "$dest.new/root" && find . -name '*.so*' -printf '%h\n' | sort -u | sed "s,^\.,$root," | grep -v /gconv | paste -sd: -)

for package in "$@"; do
  for deb in "$apt/archives/${package}"_*.deb; do
    dpkg --contents "$deb" | awk '$1 ~ /^-.*x/ { print $6 }' | sed -n 's#^\.\(/\(usr/\)\{0,1\}s\{0,1\}bin/[^/]*\)$#\1#p' \
      | while read -r program; do
          # Only ELF files: scripts need an interpreter that was not asked for.
          [ "$(head -c 4 "$dest.new/root$program" | tail -c 3)" = ELF ] || continue
          wrapper=$dest.new/bin/$(basename "$program")
          cat > "$wrapper" << END
#!/bin/sh
exec "$root$loader" --argv0 "\$0" --library-path "$libraries" "$root$program" "\$@"
END
          chmod 755 "$wrapper"
        done
  done
done

[ $result = root ] || [ -n "$(ls "$dest.new/bin")" ] || fail "$* hold no programs"
echo "$wanted" > "$dest.new/.done"
rm -rf "$dest"
mv "$dest.new" "$dest"
echo "$dest/$result"
