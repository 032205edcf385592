#!/usr/bin/env bash
# Measure postern, the floors and the peers, as root on Debian. Arguments go to the
# load generator: bench/run.sh -rounds 1 -scenarios S1,S2 -servers floor,rote,postern
set -euo pipefail
cd "$(dirname "$0")/.."

# smtp-sink is in postfix; the rest is for the servers to be measured, by default all.
packages=(postfix)
case "$*" in
  *-servers*) servers="$*" ;;
  *) servers="dovecot saslauthd" ;;
esac
[[ $servers != *dovecot* ]] || packages+=(dovecot-core dovecot-submissiond)
[[ $servers != *saslauthd* ]] || packages+=(sasl2-bin libsasl2-modules libpam-pwdfile)

missing=()
for package in "${packages[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  echo "bench/run.sh: please install (they need not run): ${missing[*]}" >&2
  exit 1
fi

# An interrupted run ends its servers itself; wait for it.
generator=
# shellcheck disable=SC2317 # called by trap
tidy() {
  if [ -n "$generator" ] && kill -TERM "$generator" 2>/dev/null; then
    wait "$generator" || true
  fi
  rm -rf "$scratch"
}
scratch=$(mktemp -d)
trap tidy EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

chmod 755 "$scratch"
CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$scratch/postern" ./cmd/postern
go build -o "$scratch/bench" ./bench
"$scratch/bench" -postern "$scratch/postern" "$@" &
generator=$!
status=0
wait "$generator" || status=$?
generator=
exit "$status"
