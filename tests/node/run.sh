#!/usr/bin/env bash
# Runs a program in an environment for a whole node: as root, in separate namespaces, with everything the node needs
# built and installed. `make test-node` runs the tests with it. If that is not possible, prints the reason and does
# nothing, or fails under CI=true.
#
# The run is isolated and leaves nothing behind:
# - a network namespace has the addresses of the node, the pods and the services, without external access;
# - a process namespace ends all processes with the program, also after Ctrl-C;
# - a mount namespace hides what the node writes to fixed paths (/run, /var/lib, /var/log);
# - pods are in a separate control group, so concurrent runs do not interfere, and the caller's limits still apply.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

unable() {
  echo "no node can run here: $1" >&2
  [ "${CI:-}" != true ] || exit 1
  echo "skipped" >&2
  exit 0
}

[ "$(uname -s)" = Linux ] || unable "it needs Linux"
[ "$(id -u)" = 0 ] || unable "pods need root"
command -v go >/dev/null || unable "kubelet and containerd are built with Go"
"$here/image.sh" --check || unable "the image's base cannot be built"

"$here/packages.sh" || unable "Debian packages are missing"
control_plane=$("$here/../control-plane/build.sh")
programs=$("$here/build.sh")
scratch=$(mktemp -d -t switchyard-node.XXXXXX)
trap 'rm -rf "$scratch"' EXIT
"$here/image.sh" "$scratch/images"
export KUBEBUILDER_ASSETS=$control_plane SWITCHYARD_NODE_PROGRAMS=$programs SWITCHYARD_NODE_IMAGES=$scratch/images

# Our path in each hierarchy of control groups, relative to its mount: one below our own group.
declare -A groups=()
while IFS=: read -r _ controllers path; do
  kind=cgroup
  [ -n "$controllers" ] || kind=cgroup2
  mount=$(awk -v kind="$kind" -v name="$controllers" '
    $3 == kind && (kind == "cgroup2" || ("," $4 ",") ~ ("," name ",")) { print $2; exit }' /proc/mounts)
  [ -z "$mount" ] || groups[$mount]=${path%/}/${scratch##*/}
done </proc/self/cgroup

leave() {
  for mount in "${!groups[@]}"; do
    [ ! -d "$mount${groups[$mount]}" ] || find "$mount${groups[$mount]}" -depth -type d -exec rmdir {} +
  done
  rm -rf "$scratch"
}
trap leave EXIT

enter() {
  local mount group file
  for mount in "${!groups[@]}"; do
    group=$mount${groups[$mount]}
    mkdir "$group"
    # A cpuset starts empty, and accepts no processes until it is filled.
    for file in cpuset.cpus cpuset.mems; do
      if [ -e "$group/$file" ] && [ -z "$(<"$group/$file")" ]; then
        cat "${group%/*}/$file" >"$group/$file"
      fi
    done
    echo "$BASHPID" >"$group/cgroup.procs"
  done
  exec unshare --net --pid --mount --cgroup --mount-proc --fork --kill-child "$here/inside.sh" "$@"
}

export SWITCHYARD_NODE_SCRATCH=$scratch
enter "$@" &
child=$!
# When the first process in the namespace ends, all others are killed, and unshare waits for that.
end() {
  local first=
  read -r first _ <"/proc/$child/task/$child/children" || true
  kill -KILL "${first:-$child}"
}
trap end INT TERM
status=0
wait "$child" || status=$?
# A signal ends the first wait early.
wait "$child" 2>/dev/null || true
exit "$status"
