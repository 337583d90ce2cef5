# Starts, enters and removes the cluster, from outside. Sourced by `cluster`.

# Mount points inside the cluster's mount namespace, of what has its path compiled in: the shims' sockets, the kubelet,
# its links to logs, and the CNI plugins. The empty directories that they are on the machine go with `down`.
mount_points="/run/containerd /var/lib/kubelet /var/log/containers /var/lib/cni"
cgroup=eventtrigger-${state##*-}

# PID: when the process started, as a number; nothing if it is gone, or dead and not yet waited for. With the number, a
# process identifier that Linux has given to another process since is not taken for ours.
started() {
  local stat
  { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 0
  set -- ${stat##*) } # the name before the last `)` may hold spaces
  [ "$1" = Z ] || echo "${20}"
}

# Whether the cluster's process 1 runs.
alive() {
  [ -e "$state/init" ] || return 1
  local pid since
  read -r pid since <"$state/init"
  [ "$(started "$pid")" = "$since" ]
}

up() {
  ! alive || fail "is up already; \`cluster down\` first"
  [ -z "$(missing_packages)" ] || fail "packages are missing: $(missing_packages | tr '\n' ' '); \`cluster install\` first"
  remove # what one that died has left behind
  build
  images
  prune
  mkdir -m 700 "$state" # it holds the keys of the cluster
  # A session of its own: an interrupt at the terminal must reach this script, which cleans up, and not the servers.
  setsid unshare --net --pid --mount --fork --kill-child --mount-proc "$here/cluster" node >"$state/up.log" 2>&1 </dev/null 9>&- &
  outer=$!
  local pid
  # --kill-child: process 1 dies with `unshare`.
  trap 'kill -KILL "$outer" 2>/dev/null; remove; rm -rf "${scratch:-}"' EXIT
  until pid=$(pgrep --parent "$outer"); do
    kill -0 "$outer" 2>/dev/null || { cat "$state/up.log" >&2; fail "failed to make namespaces"; }
    sleep 0.05
  done
  echo "$pid $(started "$pid")" >"$state/init"
  until [ -e "$state/ready" ]; do
    alive || { logs 5 >&2; cat "$state/up.log" >&2; fail "failed to start"; }
    sleep 0.1
  done
  trap 'rm -rf "${scratch:-}"' EXIT
  cat "$state/ready"
}

# Removes from the cache what was made from sources that no cluster has been started from for two weeks.
prune() {
  touch "$programs" "$postgres"
  find "$cache" -maxdepth 1 \( -name 'programs-*' -o -name 'postgres-*.tar' \) -mtime +14 -exec rm -rf {} +
}

# CMD...: a command in the cluster's namespaces, in the same directory.
run() {
  alive || { [ ! -e "$state/up.log" ] || tail -n 3 "$state/up.log" >&2; fail "is not up; \`cluster up\` first"; }
  local pid rest
  read -r pid rest <"$state/init"
  exec nsenter --target "$pid" --net --pid --mount --wdns="$PWD" \
    env "KUBECONFIG=$kubeconfig" "PATH=$programs/bin:$PATH" "$@"
}

load() { # FILE.tar
  local file; file=$(realpath -e "$1")
  (run "$here/cluster" import "$file")
}

import() { ctr --namespace k8s.io images import "$1" >/dev/null; } # inside

logs() { # [LINES]
  [ -d "$state/log" ] || fail "there are no logs: it was not started, or is removed"
  tail -n "${1:-20}" "$state"/log/*.log
}

down() { remove; }

remove() {
  if alive; then
    local pid since
    read -r pid since <"$state/init"
    # Linux kills the whole process namespace with its process 1, and takes the mounts and the network with the last
    # process in it: nothing has to be asked to stop.
    kill -KILL "$pid"
    within 30 "process $pid to end" gone "$pid" "$since"
  fi
  local controller point
  for controller in /sys/fs/cgroup /sys/fs/cgroup/*/; do # the first with cgroup v2, the others with v1
    [ ! -d "$controller/$cgroup" ] || within 30 "the control groups to be empty" remove_cgroup "$controller/$cgroup"
  done
  for point in $mount_points; do
    # Linux lets one namespace remove a mount point of another, and the mount with it: look who uses it.
    grep -qs " $point " /proc/[0-9]*/mountinfo || rmdir "$point" 2>/dev/null || true
  done
  rm -rf "$state"
}

gone() { [ "$(started "$1")" != "$2" ]; }

remove_cgroup() { find "$1" -depth -type d -exec rmdir {} + 2>/dev/null; [ ! -d "$1" ]; }

# SECONDS WHAT CMD...: waits until the command succeeds.
within() {
  local end=$((SECONDS + $1)) what=$2; shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || fail "gave up waiting for $what"
    sleep 0.1
  done
}
