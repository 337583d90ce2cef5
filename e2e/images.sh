#!/usr/bin/env bash
# Names of the images, each in one place, and one way to build them.
#
#   images.sh operator | receiver | postgres    the image's name
#   images.sh build DIR TAG [-f FILE]           builds a Dockerfile, with DIR as its context
set -euo pipefail
cd "$(dirname "$0")/.."

case ${1:-} in
  operator) sed -n 's/^ *image: *//p' config/controller/*.yaml | head -n 1 ;;
  receiver) echo "${E2E_RECEIVER_IMAGE:-localhost/eventtrigger-receiver:dev}" ;;
  postgres) echo "${E2E_POSTGRES_IMAGE:-localhost/eventtrigger-postgres:15}" ;;
  build)
    context=$2 tag=$3; shift 3
    for builder in docker podman buildah; do
      if command -v "$builder" >/dev/null; then exec "$builder" build -t "$tag" "$@" "$context"; fi
    done
    echo "neither docker, podman nor buildah is there to build $tag with; install one of them" >&2
    exit 1
    ;;
  *) sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
