#!/usr/bin/env bash
# Move a Postfix with saslauthd and PAM to postern, in a clean Debian 12, as
# docs/migrating/cyrus-pam.md says; then use postern's PAM helper instead of saslauthd.
# The machine before the move is that of the Arch wiki: a "submission" entry in master.cf,
# Cyrus SASL, saslauthd -a pam, and the system user alice. Only root can run this;
# test/run.sh does.
#
#   test/fiveminutes.sh
#
# Configurations are taken from the page. The time to the first message is printed, and
# not tested.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=test/chroot/bookworm.sh
. test/chroot/bookworm.sh

# One folder for all runs, so that a run removes what a killed one left. Its lock is held
# by this script and, through inheritance, by everything that it starts.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/postern-test
scratch=$cache/fiveminutes
root=$scratch/root
child=
mkdir -p "$cache"
exec 7>"$cache/fiveminutes.lock"
flock 7

# Everything that runs in the Debian has namespaces of its own for processes and mounts.
# They end with the first process in them, that process with unshare, and unshare with this
# script.
namespaces() {
  setpriv --pdeathsig KILL unshare --mount --uts --pid --fork --kill-child --mount-proc "$@" &
  child=$!
  wait "$child"
  child=
}

finish() {
  local status=$?
  trap - EXIT
  if [ -n "$child" ]; then
    kill -KILL "$child" 2>/dev/null || true
    wait "$child" 2>/dev/null || true
  fi
  [ $status -eq 0 ] || tail -n 30 "$scratch"/*.log "$root"/var/log/mail.log 2>/dev/null || true
  bookworm_remove "$root"
  rm -rf --one-file-system "$scratch"
  exit $status
}
trap finish EXIT
trap 'exit 1' INT TERM

build() {
  CGO_ENABLED=0 go build -trimpath -buildvcs=false -o "$scratch/postern" ./cmd/postern
  CGO_ENABLED=1 go build -tags pam -trimpath -buildvcs=false -o "$scratch/postern-pam" ./cmd/postern
}

inside() { chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C DEBIAN_FRONTEND=noninteractive "$@"; }

prepare() {
  bookworm_mount "$root"
  # The folder is removed at the end, so nothing has to reach the disk.
  echo force-unsafe-io >"$root/etc/dpkg/dpkg.cfg.d/test"
  hostname mail.example.org
  echo mail.example.org >"$root/etc/hostname"
  printf '127.0.0.1 localhost mail.example.org\n::1 localhost\n' >"$root/etc/hosts"
  echo 'postfix postfix/main_mailer_type select Internet Site' | inside debconf-set-selections
  echo 'postfix postfix/mailname string example.org' | inside debconf-set-selections
  inside apt-get update -q
  inside apt-get install -q -y --no-install-recommends acl ca-certificates libio-socket-ssl-perl libnet-ssleay-perl \
    libsasl2-modules openssl postfix sasl2-bin swaks
}

bookworm_remove "$root"
rm -rf --one-file-system "$scratch"
mkdir -p "$scratch"
begun=$SECONDS
bookworm_unpack "$root"
export -f inside prepare bookworm_mount
export root scratch
namespaces bash -euo pipefail -c prepare >"$scratch/apt.log" 2>&1
echo "a clean Debian 12 with Postfix and saslauthd: $((SECONDS - begun)) s"
begun=$SECONDS
build
echo "two programs built: $((SECONDS - begun)) s"
namespaces --net bash test/chroot/trysaslauthd.sh
