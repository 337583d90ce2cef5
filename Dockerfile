# The operator and the delivery worker: one static binary, for linux/amd64 and linux/arm64.
#
# It is compiled outside, into dist/<architecture>/ (`make image` does both): cross-compiling takes minutes where
# compiling under emulation, which is what a build stage of another architecture is, takes most of an hour.
FROM scratch

LABEL org.opencontainers.image.title="eventtrigger" \
      org.opencontainers.image.description="Turns PostgreSQL table changes into HTTP POSTs, as a Kubernetes operator" \
      org.opencontainers.image.source="https://github.com/eventtrigger/eventtrigger" \
      org.opencontainers.image.licenses="Apache-2.0"

# Set by the builder from --platform. No default here: BuildKit would prefer it, and put one architecture into all images.
ARG TARGETARCH
COPY dist/${TARGETARCH}/eventtrigger /eventtrigger

# No CA certificates: the binary brings its own (webpki-roots), and a private CA comes with the resource that needs it.

# By number, so that Kubernetes can tell that it is not root (runAsNonRoot) without a user database in the image.
USER 65532:65532
ENTRYPOINT ["/eventtrigger"]
