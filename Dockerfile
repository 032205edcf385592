# A static binary in an empty image: no shell, no library, no package to update.
#
#   docker build --build-arg VERSION=1.0.0 -t postern .
#
# It runs as any uid, with a read-only root file system. /etc/postern is for
# the configuration, the certificate and the users; /tmp takes large messages
# while they arrive, so mount a tmpfs there (compose.yaml shows it all).

FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/usr/bin/postern ./cmd/postern \
 && install -d -m 1777 /out/tmp \
 && install -d -m 0755 /out/etc/postern \
 && install -D -m 0644 /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ca-certificates.crt

FROM scratch
COPY --from=build /out/ /
USER 65532:65532
EXPOSE 587 465
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["/usr/bin/postern", "health"]
ENTRYPOINT ["/usr/bin/postern"]
CMD ["serve"]
