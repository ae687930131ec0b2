#!/bin/bash
# What the image starts: routes through the runner's simulator, then the program of the role as process 1.
# Addresses, the simulator's port and the device are those of quic-network-simulator.
set -u

case "${ROLE:-}" in
  server) program=/interop-endpoint ;;
  client) program=/interop-client ;;
  *) echo "ROLE is neither server nor client but '${ROLE:-}'" >&2; exit 127 ;;
esac

# A case that is not supported is said at once, without waiting for anything.
"$program" supported || exit $?

# The simulator does not compute checksums: packets must come with them.
ethtool -K eth0 tx off > /dev/null 2>&1 || echo "checksum offload stays as it is" >&2

# The simulator's address in each of our networks ends in 2; the other side's networks are behind it.
address() { ip -o "-$1" address show dev eth0 scope global | while read -r _ _ _ address _; do echo "${address%/*}"; break; done; }
v4=$(address 4)
v6=$(address 6)
[ -z "$v4" ] || ip route replace 193.167.0.0/16 via "${v4%.*}.2" || echo "no route for IPv4" >&2
[ -z "$v6" ] || ip -6 route replace fd00:cafe:cafe::/48 via "${v6%:*}:2" || echo "no route for IPv6" >&2

mkdir -p /logs/qlog

if [ "$ROLE" = client ]; then
  # The simulator listens here once it forwards packets.
  for _ in $(seq 300); do
    (exec 3<> /dev/tcp/sim/57832) 2> /dev/null && break
    sleep 0.1
  done
fi
exec "$program"
