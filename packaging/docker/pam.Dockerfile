# The image of postern with libpam, on Debian.
#
#   docker build -f packaging/docker/pam.Dockerfile -t postern-pam .
#
# Only these two commands need this image and root (--user 0:0). Mount what their PAM service
# reads, because they see only the users of the container:
#
#   docker run --user 0:0 ... postern-pam pam-helper --allow-user postern
#   docker run --user 0:0 ... postern-pam        # with server.user = "postern"
#
# A server that asks a helper through its socket, /run/postern-pam in a shared volume, does not
# need root and can use either image. This file is separate because Docker's older builder
# builds every stage before the one that is asked for.

ARG VERSION=0.1.0

FROM golang:1.26-bookworm AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev libpam0g-dev
WORKDIR /src
ARG GOPROXY=https://proxy.golang.org,direct
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION
RUN CGO_ENABLED=1 go build -tags pam -trimpath -buildvcs=false -ldflags "-s -w -X main.version=${VERSION}" \
    -o /out/usr/bin/postern-pam ./cmd/postern \
 && ln -s postern-pam /out/usr/bin/postern \
 && install -d -m 0755 /out/etc /out/etc/postern /out/run /out/var /out/var/lib /out/var/spool \
 && install -d -m 1777 /out/run/postern /out/var/lib/postern /out/var/spool/postern \
 && install -D -m 0644 docs/pam/smtp /out/etc/pam.d/smtp \
 && install -D -m 0644 /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ca-certificates.crt

FROM debian:bookworm-slim AS postern-pam
RUN apt-get update \
 && apt-get install -y --no-install-recommends libpam0g libpam-modules libpam-pwdfile \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 65532 postern \
 && useradd --uid 65532 --gid 65532 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin postern
COPY --from=build /out/ /
ARG VERSION
LABEL org.opencontainers.image.title="postern-pam" \
      org.opencontainers.image.description="SMTP submission server with SASL, for Postfix, with libpam" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}"
USER 65532:65532
EXPOSE 587 465
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["/usr/bin/postern-pam", "health"]
ENTRYPOINT ["/usr/bin/postern-pam"]
CMD ["serve"]
