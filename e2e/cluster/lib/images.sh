# Makes images, with buildah and without a registry. Sourced by `cluster`.

base=docker.io/library/debian:bookworm-slim
base_key=$(key "$here/lib/images.sh")
postgres=$cache/postgres-$(key "$here"/postgres/* "$here/lib/images.sh").tar

# Without a container engine's privileges: RUN becomes a chroot, which works in a container too.
export BUILDAH_ISOLATION=chroot

# A storage of its own, because the base image made here bears the name of a real one, which it must not replace.
in_storage() { buildah --root "$cache/containers" --runroot "$cache/containers-run" --storage-driver overlay "$@"; }

# What Dockerfiles call the machine's architecture.
architecture() { case $(uname -m) in x86_64) echo amd64 ;; aarch64) echo arm64 ;; *) uname -m ;; esac; }

images() {
  base
  [ -e "$postgres" ] || { say "making the PostgreSQL image"; archive "$here/postgres" localhost/eventtrigger-postgres:15 "$postgres"; }
}

# A stand-in for Docker's debian:bookworm-slim, from Debian's packages: nothing is pulled, and a Dockerfile that starts
# from the real one builds here too.
base() {
  [ -z "$(in_storage images --quiet --filter "label=eventtrigger.key=$base_key")" ] || return 0
  say "making the base image $base"
  scratch
  local root=$scratch/base container
  debootstrap --variant=minbase bookworm "$root" >"$scratch/debootstrap.log" 2>&1 || { tail -n 20 "$scratch/debootstrap.log" >&2; fail "debootstrap failed"; }
  # What makes the real one `slim`; half of the size, and so of the time that it takes to load.
  rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,info,locale}/* "$root"/dev/*
  container=$(in_storage from scratch)
  in_storage add --quiet "$container" "$root" / >/dev/null
  in_storage config --label "eventtrigger.key=$base_key" --cmd bash "$container"
  in_storage commit --quiet --rm "$container" "$base" >/dev/null
  in_storage rmi --prune >/dev/null # the one that had the name before
}

# CONTEXT TAG FILE.tar [BUILDAH-FLAGS...]: builds a Dockerfile into an archive. The image itself is not kept: what is
# built again and again would fill the disk.
archive() {
  local context=$1 tag=$2 file=$3; shift 3
  scratch
  # --platform sets TARGETARCH for the Dockerfile.
  in_storage bud --pull-never --platform "linux/$(architecture)" --tag "$tag" "$@" "$context" >"$scratch/bud.log" 2>&1 ||
    { cat "$scratch/bud.log" >&2; fail "failed to build $tag from $context"; }
  # Docker's format, because buildah always compresses layers in an OCI archive, which takes longer than all the rest.
  in_storage push --quiet "$tag" "docker-archive:$scratch/image.tar:$tag"
  in_storage rmi "$tag" >/dev/null
  mv "$scratch/image.tar" "$file"
}

image() { # DIR TAG [-f FILE]
  [ $# -eq 2 ] || [ $# -eq 4 ] || fail "usage: cluster image DIR TAG [-f FILE]"
  local context=$1 tag=$2; shift 2
  alive || fail "is not up; \`cluster up\` first"
  scratch
  # Kubernetes reads a name without a registry as one of docker.io, buildah as one of localhost: demand what both read alike.
  case $tag in */*:*) ;; *) fail "the tag must be written in full, as localhost/name:version: $tag" ;; esac
  archive "$context" "$tag" "$scratch/load.tar" "$@"
  load "$scratch/load.tar"
}
