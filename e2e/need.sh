#!/usr/bin/env bash
# Installs programs that are missing (or files, by path), as root; else says how to get them. What the cluster needs,
# `cluster install` does.
#
#   need.sh cargo cc musl-gcc target/judges/bin/python /usr/lib/postgresql/15/bin/postgres...
set -euo pipefail

stop() { echo "$*" >&2; exit 1; }

for program; do
  ! command -v "$program" >/dev/null && [ ! -e "$program" ] || continue
  case $program in
    cargo | rustup) stop "$program is missing; get Rust from https://rustup.rs" ;;
    target/judges/bin/python)
      # Pinned, so that a new release cannot fail a test of ours.
      "$0" python3
      python3 -m venv target/judges 2>/dev/null || { "$0" /usr/share/doc/python3-venv && python3 -m venv --clear target/judges; }
      target/judges/bin/pip install --quiet --disable-pip-version-check standardwebhooks==1.1.0 cloudevents==2.2.0 ||
        { rm -rf target/judges; stop 'the judges of signatures and CloudEvents could not be installed'; }
      continue ;;
    /usr/share/doc/python3-venv) packages=(python3-venv) ;;
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
