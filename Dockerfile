# Two images of one program.
#
#   docker build --build-arg VERSION=1.0.0 -t postern .
#
# makes an image with a static binary only: no shell, no library, no package.
#
#   docker build --build-arg VERSION=1.0.0 --target postern-pam -t postern-pam .
#
# makes an image of Debian with libpam and the binary that needs it,
# /usr/bin/postern-pam. Only these two commands need that image and root (--user
# 0:0). Mount what their PAM service reads, because they see only the users of the
# container:
#
#   docker run --user 0:0 ... postern-pam pam-helper --allow-user postern
#   docker run --user 0:0 ... postern-pam        # with server.user = "postern"
#
# A server that asks a helper through its socket, /run/postern-pam in a shared
# volume, can use either image and does not need root.
#
# Both run as any UID, with a read-only root file system. /etc/postern has the
# configuration, the certificate and the users; large messages are in /tmp while
# they arrive, so mount a tmpfs there (see compose.yaml). /var/lib/postern has what
# survives a restart (server.state_dir): mount a volume there.

FROM golang:1.26-bookworm AS source
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .

FROM source AS build-pam
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev libpam0g-dev
ARG VERSION=
RUN CGO_ENABLED=1 go build -tags pam -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/usr/bin/postern-pam ./cmd/postern \
 && ln -s postern-pam /out/usr/bin/postern \
 && install -d -m 0755 /out/etc/postern \
 && install -d -m 1777 /out/var/lib/postern \
 && install -D -m 0644 docs/pam/smtp /out/etc/pam.d/smtp \
 && install -D -m 0644 /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ca-certificates.crt

FROM debian:bookworm-slim AS postern-pam
RUN apt-get update \
 && apt-get install -y --no-install-recommends libpam0g libpam-modules libpam-pwdfile \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 65532 postern \
 && useradd --uid 65532 --gid 65532 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin postern
COPY --from=build-pam /out/ /
USER 65532:65532
EXPOSE 587 465
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["/usr/bin/postern-pam", "health"]
ENTRYPOINT ["/usr/bin/postern-pam"]
CMD ["serve"]

FROM source AS build
ARG VERSION=
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/usr/bin/postern ./cmd/postern \
 && install -d -m 1777 /out/tmp /out/var/lib/postern \
 && install -d -m 0755 /out/etc/postern \
 && install -D -m 0644 /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ca-certificates.crt

FROM scratch AS postern
COPY --from=build /out/ /
USER 65532:65532
EXPOSE 587 465
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["/usr/bin/postern", "health"]
ENTRYPOINT ["/usr/bin/postern"]
CMD ["serve"]
