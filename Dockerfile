# The image of postern: a static binary and nothing else. No shell, no library, no package.
#
#   docker build -t postern .
#   docker build --build-arg VERSION=1.0.0 -t postern .
#   DOCKER_BUILDKIT=1 docker build --platform linux/arm64 -t postern:arm64 .   # cross-compiled
#
# It runs as any UID, with a read-only root file system. /etc/postern has the configuration,
# the certificate and the users. Large messages are in /tmp while they arrive: mount a tmpfs
# there. What survives a restart is in /var/lib/postern (server.state_dir), and messages are
# in /var/spool/postern if relay.spool names it: mount a volume at each. docs/containers.md
# has the rest. The image with libpam is packaging/docker/pam.Dockerfile.

ARG VERSION=0.1.0

FROM --platform=${BUILDPLATFORM:-linux/amd64} golang:1.26-bookworm AS build
WORKDIR /src
ARG GOPROXY=https://proxy.golang.org,direct
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETARCH
ARG VERSION
# Folders for volumes: a new volume has the mode of the folder that it covers.
RUN CGO_ENABLED=0 GOOS=linux GOARCH=${TARGETARCH:-$(go env GOARCH)} \
    go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=${VERSION}" -o /out/usr/bin/postern ./cmd/postern \
 && install -d -m 0755 /out/etc /out/etc/postern /out/run /out/var /out/var/lib /out/var/spool \
 && install -d -m 1777 /out/tmp /out/run/postern /out/var/lib/postern /out/var/spool/postern \
 && install -D -m 0644 /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ca-certificates.crt

FROM scratch AS postern
COPY --from=build /out/ /
ARG VERSION
LABEL org.opencontainers.image.title="postern" \
      org.opencontainers.image.description="SMTP submission server with SASL, for Postfix" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}"
USER 65532:65532
EXPOSE 587 465
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["/usr/bin/postern", "health"]
ENTRYPOINT ["/usr/bin/postern"]
CMD ["serve"]
