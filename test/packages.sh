#!/usr/bin/env bash
# Build the packages, examine them, and try them in a clean Debian 12, as an administrator
# does: install, configure, start the server as its unit says, send a message to a real
# Postfix, upgrade, remove, purge. The network is a namespace of its own. Only root can
# run this; test/run.sh does.
#
#   test/packages.sh
#
# The time from the installation to the first message is printed, and not tested.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=test/chroot/bookworm.sh
. test/chroot/bookworm.sh

scratch=$(mktemp -d)
root=$scratch/root
finish() {
  local status=$?
  trap - EXIT
  [ $status -eq 0 ] || tail -n 40 "$scratch"/*.log "$root"/var/log/mail.log 2>/dev/null || true
  bookworm_remove "$root"
  rm -rf --one-file-system "$scratch"
  exit $status
}
trap finish EXIT
trap 'exit 1' INT TERM

step() { printf -- '-- %s\n' "$*"; }
fail() { printf 'test/packages.sh: %s\n' "$*" >&2; exit 1; }

# The second version is built twice, and has to have the same bytes.
build() {
  export SOURCE_DATE_EPOCH=1700000000
  NFPM=$scratch/bin/nfpm
  GOBIN=$scratch/bin go install "$(sed -n 's/^readonly NFPM_MODULE=//p' packaging/release.sh)"
  export NFPM
  packaging/release.sh 1.0.0 "$scratch/old" "$(go env GOHOSTARCH)" >"$scratch/release.log" 2>&1
  packaging/release.sh 1.0.1 "$scratch/new" >"$scratch/release.log" 2>&1
  packaging/release.sh 1.0.1 "$scratch/again" >"$scratch/release.log" 2>&1
  cmp "$scratch/new/SHA256SUMS" "$scratch/again/SHA256SUMS" || fail "two builds of one source differ"
  (cd "$scratch/new" && sha256sum --quiet -c SHA256SUMS)
}

contents() { # TEXT NAME PATTERN...: each pattern is a line of the list
  local text=$1 name=$2 pattern
  shift 2
  for pattern; do
    grep -Eq "$pattern" <<<"$text" || fail "$name has no $pattern in:"$'\n'"$text"
  done
}

# The other formats are read with the tools that Debian has for them.
examine() {
  lintian --no-cfg --allow-root --fail-on error,warning "$scratch"/new/*.deb
  contents "$(rpm -qplv "$scratch"/new/postern-1.0.1-1.x86_64.rpm)" rpm \
    '^-rwxr-xr-x .* /usr/bin/postern$' '^drwxr-x--- .* root +postern .* /etc/postern$' \
    '^drwx------ .* postern +postern .* /var/lib/postern$' '^-rw-r--r-- .*/usr/lib/systemd/system/postern.service$' \
    '/usr/lib/sysusers.d/postern.conf$' '/usr/share/man/man8/postern-check.8.gz$' '/usr/share/man/man5/postern.toml.5.gz$'
  contents "$(rpm -qp --scripts "$scratch"/new/postern-1.0.1-1.x86_64.rpm)" "scripts of the rpm" 'useradd --system' 'try-restart postern'
  contents "$(tar --zstd -tvf "$scratch"/new/postern-1.0.1-1-x86_64.pkg.tar.zst)" "Arch package" \
    '^-rwxr-xr-x .* usr/bin/postern$' '^drwxr-x--- .* etc/postern/$' '\.PKGINFO$' '\.INSTALL$' '\.MTREE$' \
    'usr/lib/systemd/system/postern.socket$' 'usr/share/zsh/site-functions/_postern$'
  contents "$(tar -tvzf "$scratch"/new/postern_1.0.1_x86_64.apk 2>/dev/null)" apk \
    '^-rwxr-xr-x .* usr/bin/postern$' '^drwxr-x--- root/postern .* etc/postern/?$' '\.PKGINFO$' '\.pre-install$' \
    '^-rwxr-xr-x .* etc/init.d/postern$'
  python3 - "$scratch"/new/*.cdx.json <<'PYTHON'
import json, sys
for path in sys.argv[1:]:
    names = {c["name"] for c in json.load(open(path))["components"]}
    assert "std" in names and "github.com/spf13/cobra" in names, path
PYTHON
}

inside() { chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C DEBIAN_FRONTEND=noninteractive "$@"; }

prepare() {
  bookworm_unpack "$root"
  bookworm_mount "$root"
  echo mail.example.org >"$root/etc/hostname"
  printf '127.0.0.1 localhost mail.example.org\n::1 localhost\n' >"$root/etc/hosts"
  echo 'postfix postfix/main_mailer_type select Local only' | inside debconf-set-selections
  echo 'postfix postfix/mailname string mail.example.org' | inside debconf-set-selections
  inside apt-get update -q >"$scratch/apt.log" 2>&1
  inside apt-get install -q -y --no-install-recommends adduser ca-certificates init-system-helpers libio-socket-ssl-perl \
    libnet-ssleay-perl libpam0g openssl postfix swaks >>"$scratch/apt.log" 2>&1
}

step "build"
build
step "examine"
examine
step "a clean Debian 12"
prepare
step "try"
mkdir "$root/packages"
cp "$scratch"/old/*.deb "$scratch"/new/*.deb "$root/packages/"
export -f inside
export root scratch
unshare -n -- bash test/chroot/trypackages.sh
