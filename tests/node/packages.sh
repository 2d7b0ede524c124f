#!/usr/bin/env bash
# Installs missing Debian packages for the node and the images: runc, buildah and so on. Needs root.
set -euo pipefail

declare -A packages=([runc]=runc [buildah]=buildah [debootstrap]=debootstrap [ip]=iproute2 [nft]=nftables
  [conntrack]=conntrack [/usr/lib/cni/bridge]=containernetworking-plugins)
missing=()
for program in "${!packages[@]}"; do
  command -v "$program" >/dev/null || missing+=("${packages[$program]}")
done
[ ${#missing[@]} != 0 ] || exit 0
command -v apt-get >/dev/null || { echo "missing: ${missing[*]}" >&2; exit 1; }
echo "installing ${missing[*]}" >&2
{ apt-get update -qq && apt-get install -qq --no-install-recommends -y "${missing[@]}"; } >&2
