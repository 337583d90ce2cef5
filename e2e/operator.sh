#!/usr/bin/env bash
# Builds the images from this checkout into the running cluster, installs the operator by its Helm chart with the values
# that it has, and waits until it runs. For a cluster that somebody brought along (KUBECONFIG), nothing is built: the images
# must be there. One in which `kubectl apply -k config/default` has put the operator becomes Helm's.
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

helm=$(e2e/tools/tool helm)
# First, so that even the first pod must be as restricted as this namespace asks for.
"${inside[@]}" kubectl apply --server-side -f config/default/namespace.yaml
"${inside[@]}" "$helm" upgrade --install --take-ownership --hide-notes --namespace eventtrigger-system eventtrigger charts/eventtrigger
# If it ran already: from the image that was just built, which has the name of the one before.
"${inside[@]}" kubectl --namespace eventtrigger-system rollout restart deployment
"${inside[@]}" kubectl --namespace eventtrigger-system rollout status deployment --timeout 120s
