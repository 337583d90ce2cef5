# Where things are, which versions, and what the other parts share. Sourced by `cluster`.

repository=$(cd "$here/../.." && pwd)
cache=$(realpath -m "${EVENTTRIGGER_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/eventtrigger}")
export EVENTTRIGGER_CACHE=$cache CLUSTER_NAME=${CLUSTER_NAME:-cluster}
cache=$cache/cluster

# Where `install` puts Go when the machine has none that is new enough.
go_version=1.24.11 go_home=$cache/go
[ ! -x "$go_home/go/bin/go" ] || PATH=$go_home/go/bin:$PATH

# The Go module holds the one pin of Kubernetes' version.
kubernetes_version=$(sed -n 's/^[[:space:]]*k8s.io\/kubernetes v/v/p' "$here/kubernetes/go.mod")

# FILE...: what a cached thing is called by, so that it is made again when what it is made from has changed.
key() { { uname -m; cat -- "$@"; } | sha256sum | cut -c1-12; }

# Outside of the repository, which tools walk and which may lie on a slow or shared file system; named after it, so that
# `run` finds the cluster that `up` from the same checkout has started.
state=$cache/state-$(sha256sum <<<"$repository $CLUSTER_NAME" | cut -c1-12)
programs=$cache/programs-$(key "$here"/kubernetes/*.go "$here"/kubernetes/go.* "$here"/coredns/* "$here/pause.c" "$here/lib/build.sh")
kubeconfig=$state/super-admin.conf # by the name that kubeadm gives to the one that needs no RBAC rule
audit_log=$state/audit.log

say() { echo "cluster: $*" >&2; }
fail() { say "$@"; exit 1; }

# CMD...: one at a time on this machine, because they write to the cache. A server started meanwhile must not
# inherit the lock (`9>&-`): it would hold it as long as it lives.
locked() {
  [ "$(id -u)" = 0 ] || fail "needs root, to make namespaces, mounts and control groups"
  mkdir -p "$cache"
  exec 9>"$cache/lock"
  flock --nonblock 9 || { say "waiting for another \`cluster\` that builds or starts"; flock 9; }
  "$@"
}

# Makes $scratch: a directory in the cache (so that a rename moves it to its place), gone when the script ends.
scratch() {
  [ -z "${scratch:-}" ] || return 0
  scratch=$(mktemp -d "$cache/scratch.XXXXXX")
  trap 'rm -rf "$scratch"' EXIT
}
