#!/usr/bin/env bash
# Builds the Kubernetes control plane that the cluster tests run against, once per version, and prints the
# folder that holds it. Needs Go and a Go module proxy, nothing else.
#
# KUBEBUILDER_ASSETS, when set, names a folder that already holds kube-apiserver, etcd and kubectl: it is used as is.
# SWITCHYARD_CACHE overrides where the binaries are kept (default: $XDG_CACHE_HOME/switchyard or ~/.cache/switchyard).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
  echo "$KUBEBUILDER_ASSETS"
  exit 0
fi

# The key is what the binaries are made from: another version, flag or dependency is another folder.
key=$(cat "$here"/build.sh "$here"/*/go.mod "$here"/*/go.sum "$here"/etcd/main.go | sha256sum | cut -c1-16)
cache=${SWITCHYARD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/switchyard}
bin=$cache/control-plane/$key

if [ ! -e "$bin/complete" ]; then
  command -v go >/dev/null || { echo "the cluster tests need Go, or KUBEBUILDER_ASSETS" >&2; exit 1; }
  mkdir -p "$bin"
  # Two runs that start at once must not build into one folder: the second waits, then finds it complete.
  exec 9>"$bin/lock"
  flock 9
  if [ ! -e "$bin/complete" ]; then
    echo "building the control plane for the cluster tests into $bin (once; some minutes)" >&2
    export CGO_ENABLED=0
    version=$(cd "$here/kube" && go list -m -f '{{.Version}}' k8s.io/kubernetes)
    stamp=k8s.io/component-base/version
    minor=${version#v1.}
    flags="-s -w -X $stamp.gitVersion=$version -X $stamp.gitMajor=1 -X $stamp.gitMinor=${minor%%.*}"
    (cd "$here/etcd" && go build -trimpath -ldflags '-s -w' -o "$bin/etcd" .) >&2
    (cd "$here/kube" && go build -trimpath -ldflags "$flags" -o "$bin/" tool) >&2
    (cd "$here/helm" && go build -trimpath -ldflags '-s -w' -o "$bin/" tool) >&2
    touch "$bin/complete"
  fi
fi
echo "$bin"
