#!/usr/bin/env bash
# Builds the images from this checkout into the running cluster, installs the operator by `kubectl apply -k
# config/default`, and waits until it runs. For a cluster that somebody brought along (KUBECONFIG), nothing is built: the
# images must be there.
set -euo pipefail
cd "$(dirname "$0")/.."

operator=$(e2e/images.sh operator)
if [ -n "${KUBECONFIG:-}" ]; then
  inside=()
  echo "the cluster must have these images: $operator $(e2e/images.sh receiver) $(e2e/images.sh postgres)"
else
  inside=(e2e/cluster/cluster run)
  make --no-print-directory dist
  e2e/cluster/cluster image . "$operator"
  e2e/cluster/cluster image . "$(e2e/images.sh receiver)" -f e2e/cluster/receiver/Dockerfile
fi

"${inside[@]}" kubectl apply --server-side --force-conflicts -k config/default
# If it ran already: from the image that was just built, which has the name of the one before.
"${inside[@]}" kubectl --namespace eventtrigger-system rollout restart deployment
"${inside[@]}" kubectl --namespace eventtrigger-system rollout status deployment --timeout 120s
