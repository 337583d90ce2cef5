#!/usr/bin/env bash
# Installs programs that are missing (or files, by path), as root; else says how to get them. What the cluster needs,
# `cluster install` does.
#
#   need.sh cargo cc musl-gcc /usr/lib/postgresql/15/bin/postgres...
set -euo pipefail

stop() { echo "$*" >&2; exit 1; }

for program; do
  ! command -v "$program" >/dev/null && [ ! -e "$program" ] || continue
  case $program in
    cargo | rustup) stop "$program is missing; get Rust from https://rustup.rs" ;;
    cc) packages=(gcc libc6-dev) ;;
    musl-gcc) packages=(musl-tools) ;;
    /usr/lib/postgresql/15/bin/*) packages=(postgresql-15) ;;
    /usr/lib/postgresql/15/lib/pgq_triggers.so) packages=(postgresql-15-pgq3) ;;
    psql | pg_dump) packages=(postgresql-client) ;;
    *) packages=("$program") ;;
  esac
  [ "$(id -u)" = 0 ] || stop "$program is missing; on Debian and Ubuntu: sudo apt-get install ${packages[*]}"
  echo "installing ${packages[*]}, for $program"
  export DEBIAN_FRONTEND=noninteractive
  get=(apt-get install -qq --yes --no-install-recommends "${packages[@]}")
  # The lists are fetched only when those at hand do not do: none yet, or older than the packages.
  "${get[@]}" >/dev/null 2>&1 || { apt-get update -qq && "${get[@]}" >/dev/null; }
done
