#!/usr/bin/env bash
# Build the release: programs, packages, SHA256SUMS and a bill of materials of each program.
# The same source, Go and C compiler give the same bytes, whenever and wherever it runs.
#
#   packaging/release.sh VERSION FOLDER [ARCH...]
#
# VERSION has no "v". ARCH is amd64 or arm64; the default is both. postern-pam is built for
# the architecture of this machine only, because it needs libpam and a C compiler.
# SOURCE_DATE_EPOCH is the time of all files; the default is that of the last commit.
# NFPM may name an installed nfpm. MAINTAINER and HOMEPAGE appear in the packages.
set -euo pipefail
umask 022
export LC_ALL=C TZ=UTC

readonly NFPM_MODULE=github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2

[ $# -ge 2 ] || { echo "usage: packaging/release.sh VERSION FOLDER [ARCH...]" >&2; exit 64; }
VERSION=$1
mkdir -p "$2"
out=$(cd "$2" && pwd)
shift 2
[ $# -gt 0 ] || set -- amd64 arm64

cd "$(dirname "$0")/.."
host=$(go env GOHOSTARCH)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
STAGE=$work/stage
mkdir -p "$STAGE/bin"
export VERSION STAGE
export MAINTAINER=${MAINTAINER:-"The postern authors <postern@example.org>"}
export HOMEPAGE=${HOMEPAGE:-https://example.org/postern}
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}

build() { # ARCH NAME CGO_ENABLED [FLAG...]
  local arch=$1 name=$2 cgo=$3
  shift 3
  CGO_ENABLED=$cgo GOOS=linux GOARCH=$arch GOFLAGS='' go build "$@" -trimpath -buildvcs=false \
    -ldflags "-s -w -buildid= -X main.version=$VERSION" -o "$STAGE/bin/$arch/$name" ./cmd/postern
}

# gzip -n leaves out the name and the time.
write_documents() {
  "$STAGE/bin/$host/postern" manual --example config.toml.example "$STAGE/man"
  gzip -9n "$STAGE"/man/man?/*
  echo ".so man8/postern.8" | gzip -9n >"$STAGE/postern-pam.8.gz"
  local package
  for package in postern postern-pam; do
    printf '%s (%s) unstable; urgency=medium\n\n  * Release %s; the changes are in CHANGELOG.md of the source.\n\n -- %s  %s\n' \
      "$package" "$VERSION" "$VERSION" "$MAINTAINER" "$(date -R -u -d "@$SOURCE_DATE_EPOCH")" |
      gzip -9n >"$STAGE/$package.changelog.gz"
  done
  {
    printf 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: postern\n'
    printf '\nFiles: *\nCopyright: %s\nLicense: Expat\n' "$(sed -n 's/^Copyright (c) //p' LICENSE)"
    sed -n '/^Permission/,$s/^$/./; /^Permission/,$s/^/ /p' LICENSE
  } >"$STAGE/copyright"
}

package() { # FILE ARCH FORMAT...
  local file=$work/package.yaml format
  export ARCH=$2
  # nfpm replaces variables in the paths of contents only if each of them asks for it.
  sed "s|\${STAGE}|$STAGE|; s|\${ARCH}|$ARCH|" "$1" >"$file"
  shift 2
  for format in "$@"; do
    "$NFPM" package --config "$file" --packager "$format" --target "$out" >&2
  done
}

if [ -z "${NFPM:-}" ]; then
  GOBIN=$work/bin GOFLAGS='' go install "$NFPM_MODULE"
  NFPM=$work/bin/nfpm
fi

build "$host" postern 0
for arch; do
  [ -e "$STAGE/bin/$arch/postern" ] || build "$arch" postern 0
  [ "$arch" != "$host" ] || build "$arch" postern-pam 1 -tags pam -buildmode=pie
done
write_documents
for arch; do
  package packaging/postern.yaml "$arch" deb rpm apk archlinux
  [ "$arch" != "$host" ] || package packaging/postern-pam.yaml "$arch" deb rpm archlinux
  for program in "$STAGE/bin/$arch"/*; do
    name=${program##*/}-$VERSION-linux-$arch
    install -m 0755 "$program" "$out/$name"
    go run ./packaging/sbom "$program" >"$out/$name.cdx.json"
  done
done
# A glob is sorted, so the list is, too.
cd "$out"
rm -f SHA256SUMS
sha256sum -- * >"$work/SHA256SUMS"
mv "$work/SHA256SUMS" SHA256SUMS
