#!/usr/bin/env bash
# Builds target/e2e/kustomize-controller, Flux's own, and takes its CRD along, for the e2e test that lets it reconcile a folder.
# Wants Go 1.25; `cluster install` gets an older one, which fetches the newer. It is compiled with the SDKs of three clouds: 5 min
# of processor time, so it is kept in the cache.
#
# Environment: EVENTTRIGGER_CACHE (default: ~/.cache/eventtrigger).
set -euo pipefail
cd "$(dirname "$0")"
cache=$(realpath -m "${EVENTTRIGGER_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/eventtrigger}")
# Where `cluster install` puts Go if it must.
[ ! -x "$cache/cluster/go/go/bin/go" ] || PATH=$cache/cluster/go/go/bin:$PATH
bin=$cache/flux-$({ uname -m; cat go.mod build.sh; } | sha256sum | cut -c1-12)
package=github.com/fluxcd/kustomize-controller
if [ ! -x "$bin/kustomize-controller" ]; then
  mkdir -p "$bin"
  module=$(go list -m -f '{{.Dir}}' "$package")
  [ -n "$module" ] || { go mod download "$package"; module=$(go list -m -f '{{.Dir}}' "$package"); }
  install -m 644 "$module/config/crd/bases/kustomize.toolkit.fluxcd.io_kustomizations.yaml" "$bin/kustomize-controller.yaml"
  new=$(mktemp "$bin/.new.XXXXXX")
  CGO_ENABLED=0 nice -n 10 go build -trimpath -buildvcs=false -ldflags '-s -w' -o "$new" "$package" || { rm -f "$new"; exit 1; }
  chmod 755 "$new"
  mv "$new" "$bin/kustomize-controller" # whole or not at all: two may build at once
fi
mkdir -p ../../target/e2e
ln -sf "$bin/kustomize-controller" "$bin/kustomize-controller.yaml" ../../target/e2e/
