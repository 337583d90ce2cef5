#!/usr/bin/env bash
# Builds target/e2e/kstatus and target/e2e/promql, by which the e2e tests ask what others make of a status and of an alert.
# Wants Go; `cluster install` gets one.
set -euo pipefail
cd "$(dirname "$0")"
cache=${EVENTTRIGGER_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/eventtrigger}
# Where `cluster install` puts Go if it must.
[ ! -x "$cache/cluster/go/go/bin/go" ] || PATH=$cache/cluster/go/go/bin:$PATH
for judge in kstatus promql; do
  out=$PWD/../target/e2e/$judge
  [ -x "$out" ] && [ "$out" -nt $judge/main.go ] && [ "$out" -nt $judge/go.mod ] && continue
  (cd $judge && CGO_ENABLED=0 nice -n 10 go build -trimpath -buildvcs=false -o "$out" .)
done
