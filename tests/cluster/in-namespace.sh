#!/usr/bin/env bash
# Cargo's runner (.cargo/config.toml): programs that need the cluster test bed, and the benchmark of the peers, run in a
# separate network namespace; all others run directly.
#
# The API server rejects loopback addresses in EndpointSlices. In the namespace, test backends have addresses that it
# accepts (TEST-NET-1), which reach nothing else. A process namespace makes sure that leftover processes end with the
# run. No privileges are needed if user namespaces are allowed.
set -euo pipefail

case ${1##*/} in
  cluster-* | apply-* | scale-* | peers) ;;
  *) exec "$@" ;;
esac
unshared=(unshare --net --pid --mount-proc --fork --kill-child)
[ "$(id -u)" = 0 ] || unshared+=(--user --map-root-user)
if ! command -v ip >/dev/null || ! "${unshared[@]}" true; then
  echo "no network namespace: iproute2, and root or user namespaces, are required" >&2
  exec "$@" # prints that it is skipped, or fails under CI=true
fi

scratch=$(mktemp -d -t switchyard-cluster.XXXXXX)
trap 'rm -rf "$scratch"' EXIT
export TMPDIR=$scratch SWITCHYARD_TEST_NAMESPACE=1

# The first process of a process namespace has no default signal handling and must reap orphans: a shell.
inside='
  set -euo pipefail
  ip link set lo up
  for host in {1..40}; do ip address add "192.0.2.$host/32" dev lo; done
  trap "exit 130" INT TERM
  "$@" &
  wait $!
'
status=0
"${unshared[@]}" bash -c "$inside" bash "$@" || status=$?
exit "$status"
