#!/usr/bin/env bash
# The first process in the node's namespaces (run.sh): makes them what kubelet and containerd expect, then runs a
# program, and ends with it.
set -euo pipefail
scratch=$SWITCHYARD_NODE_SCRATCH

# What the node writes to fixed places goes to the run's own folder.
mount -t tmpfs tmpfs /run
mkdir /run/lock
for folder in lib log; do
  mkdir "$scratch/$folder"
  mount --bind "$scratch/$folder" "/var/$folder"
done
mkdir "$scratch/tmp"

# Each hierarchy again, now with our own control group as its root.
mapfile -t hierarchies < <(grep -E '^[^ ]+ /sys/fs/cgroup[^ ]* cgroup2? ' /proc/mounts)
for hierarchy in "${hierarchies[@]}"; do
  read -r _ folder kind options _ <<<"$hierarchy"
  controllers=$(tr ',' '\n' <<<"$options" | sed -E '/^(rw|ro|relatime|nosuid|nodev|noexec|nsdelegate)$/d' | paste -sd,)
  umount "$folder"
  mount -t "$kind" ${controllers:+-o "$controllers"} cgroup "$folder"
done
# With one hierarchy alone, a group has either processes or controllers to hand down.
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  mkdir /sys/fs/cgroup/init
  xargs -n 1 </sys/fs/cgroup/cgroup.procs >/sys/fs/cgroup/init/cgroup.procs || true
  sed 's/^/+/; s/ / +/g' /sys/fs/cgroup/cgroup.controllers >/sys/fs/cgroup/cgroup.subtree_control
fi

# The node's address; a route to everywhere, which leads nowhere, since programs look for the address by it.
ip link set lo up
ip link add node type bridge
ip address add 10.10.0.2/24 dev node
ip link set node up
ip route add default via 10.10.0.1
sysctl -qw net.ipv4.ip_forward=1

export TMPDIR=$scratch/tmp SWITCHYARD_TEST_NAMESPACE=1 SWITCHYARD_TEST_NODE=10.10.0.2
# The first process of a namespace has no default reaction to signals, and reaps what others leave: a shell.
trap 'exit 130' INT TERM
"$@" &
wait $!
