#!/usr/bin/env bash
# Builds the project's image from its Dockerfile, and the image of the pods that the node's tests put behind it, without
# a container engine and without a registry of images:
#
#   image.sh FOLDER [--no-cache]
#   image.sh --check
#
# leaves two archives in the folder, switchyard.tar and backend.tar, and their images' ids beside them. Takes root, and
# reaches Debian's mirror and the registry of crates. With --no-cache, the project's image is built from its first line
# on, whatever has been built before. With --check it builds nothing, and fails where the compiler that the Dockerfile
# names is not here, also when the base has been made before.
#
# The Dockerfile's base image is made here, once for each version: Debian by debootstrap, with this machine's Rust
# toolchain of that version in it. Layers are kept in $SWITCHYARD_CACHE (default $XDG_CACHE_HOME/switchyard or
# ~/.cache/switchyard), so that the next build compiles this crate alone.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
project=$(cd "$here/../.." && pwd)
cache=${SWITCHYARD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/switchyard}
store=$cache/node-images
base=$(sed -n 's/^FROM \(rust:[^ ]*\) AS build$/\1/p' "$project/Dockerfile")
version=${base#rust:}
version=${version%%-*}
suite=${base##*-}

# The folder of the compiler of that version.
toolchain() {
  local folder
  folder=$(rustup run "$version" rustc --print sysroot 2>/dev/null || rustc --print sysroot)
  if ! "$folder/bin/rustc" --version | grep -q "^rustc $version\b"; then
    echo "$base is to be made, but there is no Rust $version here: \`rustup toolchain install $version\` brings it" >&2
    return 1
  fi
  echo "$folder"
}
if [ "${1:?a folder for the archives}" = --check ]; then
  toolchain >/dev/null
  exit
fi
out=$1
shift
mkdir -p "$out" "$store"
out=$(cd "$out" && pwd)
"$here/packages.sh"
# Two runs share the layers: the second waits, then finds what the first built.
exec 9>"$store/lock"
flock 9

# Copying each layer whole is slow, but goes everywhere.
driver() {
  local probe
  probe=$(mktemp -d -p "$store")
  mkdir "$probe/lower" "$probe/upper" "$probe/work" "$probe/merged"
  if unshare --mount mount -t overlay overlay \
    -o "lowerdir=$probe/lower,upperdir=$probe/upper,workdir=$probe/work" "$probe/merged" 2>/dev/null; then
    echo overlay
  else
    echo vfs
  fi
  rm -rf "$probe"
}
driver=$(driver)

images() {
  buildah --root "$store/layers-$driver" --runroot "$store/run" --storage-driver "$driver" "$@"
}

# What stands for the registry's image of that name: the same distribution, the same compiler, the same folders.
make_base() {
  local container root toolchain mirror
  toolchain=$(toolchain)
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | sed -n 1p)
  container=$(images from scratch)
  root=$(images mount "$container")
  debootstrap --variant=minbase --include=ca-certificates,gcc,libc6-dev "$suite" "$root" ${mirror:+"$mirror"}
  mkdir -p "$root/usr/local/cargo"
  cp -a "$toolchain/bin" "$toolchain/lib" "$root/usr/local/"
  # Whom this machine trusts besides, to reach the registries.
  cp -a /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/"
  chroot "$root" update-ca-certificates
  rm -rf "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
  images config --env CARGO_HOME=/usr/local/cargo "$container"
  images config --env PATH=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
  images commit --quiet --rm "$container" "docker.io/library/$base"
}

build() {
  images build --isolation chroot --layers --pull-never --timestamp 0 "$@"
}

archive() {
  rm -f "$out/$2.tar"
  images push --quiet "$1" "docker-archive:$out/$2.tar:$1"
  images inspect --type image --format '{{.FromImageID}}' "$1" >"$out/$2.id"
}

images inspect --type image "docker.io/library/$base" >/dev/null 2>&1 || make_base >&2

# Settings of this machine, such as a mirror of the registry: for the build alone, not a part of any layer.
settings=()
config=${CARGO_HOME:-$HOME/.cargo}/config.toml
[ ! -e "$config" ] || settings=(--volume "$config:/usr/local/cargo/config.toml:ro")
project() {
  build "$@" "${settings[@]}" --build-arg "REVISION=$(git -C "$project" rev-parse HEAD)" "$project" >&2
}
project "$@" --tag localhost/switchyard:test
archive localhost/switchyard:test switchyard
# The stage that compiles gets a name too, so that it is not taken for rubbish below.
[ $# != 0 ] || project --target build --tag localhost/switchyard-build:test

(cd "$here/backend" && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$out/backend" .)
build --file "$here/backend/Dockerfile" --tag localhost/backend:test "$out" >&2
rm "$out/backend"
archive localhost/backend:test backend

# What the images of earlier commits had, and these have not.
images rmi --prune --force >/dev/null
