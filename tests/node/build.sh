#!/usr/bin/env bash
# Builds what a node needs besides the control plane (tests/control-plane/build.sh), once per version, and prints the
# folder that holds it: kubelet, kube-proxy, kube-scheduler, CoreDNS, containerd and its tools. Needs Go and a Go module
# proxy, nothing else.
#
# SWITCHYARD_CACHE overrides where the binaries are kept (default: $XDG_CACHE_HOME/switchyard or ~/.cache/switchyard).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# The key is what the binaries are made from: another version, flag or dependency is another folder.
key=$(cat "$here"/build.sh "$here"/dns/main.go "$here"/{containerd,dns,kube}/go.{mod,sum} | sha256sum | cut -c1-16)
cache=${SWITCHYARD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/switchyard}
bin=$cache/node/$key

if [ ! -e "$bin/complete" ]; then
  command -v go >/dev/null || { echo "the node needs Go" >&2; exit 1; }
  mkdir -p "$bin"
  # Two runs that start at once must not build into one folder: the second waits, then finds it complete.
  exec 9>"$bin/lock"
  flock 9
  if [ ! -e "$bin/complete" ]; then
    echo "building kubelet, kube-proxy, kube-scheduler, CoreDNS and containerd into $bin (once; some minutes)" >&2
    # As the control plane is built, so that packages are compiled once for both.
    export CGO_ENABLED=0
    version=$(cd "$here/kube" && go list -m -f '{{.Version}}' k8s.io/kubernetes)
    stamp=k8s.io/component-base/version
    minor=${version#v1.}
    flags="-s -w -X $stamp.gitVersion=$version -X $stamp.gitMajor=1 -X $stamp.gitMinor=${minor%%.*}"
    (cd "$here/containerd" && go build -trimpath -tags no_btrfs,no_zfs -ldflags '-s -w' -o "$bin/" tool) >&2
    (cd "$here/kube" && go build -trimpath -ldflags "$flags" -o "$bin/" tool) >&2
    (cd "$here/dns" && go build -trimpath -ldflags '-s -w' -o "$bin/coredns" .) >&2
    touch "$bin/complete"
  fi
fi
echo "$bin"
