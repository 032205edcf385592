#!/usr/bin/env bash
# Run every check and every test of the project, including those against real peers. As
# root it installs missing Debian packages; otherwise it lists them and fails. It writes
# nothing into the tree.
#
#   test/run.sh
#
# The versions of the analysers and of the npm package are set only here.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly STATICCHECK=honnef.co/go/tools/cmd/staticcheck@v0.8.2
readonly GOVULNCHECK=golang.org/x/vuln/cmd/govulncheck@v1.9.0
readonly NODEMAILER=nodemailer@10.6.0
readonly PACKAGES=(
  binutils ca-certificates curl debootstrap docker-compose docker.io dovecot-auth-lua
  dovecot-core fail2ban gcc gsasl haproxy iproute2 knot libc6-dev libnet-ssleay-perl
  libpam-pwdfile libpam0g-dev libsasl2-modules lintian mariadb-server msmtp mutt
  opendkim-tools openssl passwd postfix postgresql procps python3 python3-dkim rpm
  s-nail sasl2-bin shellcheck slapd swaks systemd util-linux zstd
)

scratch=$(mktemp -d)
policy=/usr/sbin/policy-rc.d
made_policy=
trap 'rm -rf "$scratch"; [ -z "$made_policy" ] || rm -f "$policy"' EXIT

step() { printf '\n== %s\n' "$*"; }
fail() { printf 'test/run.sh: %s\n' "$*" >&2; exit 1; }

missing_packages() {
  local package
  for package in "${PACKAGES[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || echo "$package"
  done
}

# The tests start their own servers, so no package may start a service.
install_packages() {
  local missing
  mapfile -t missing < <(missing_packages)
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || fail "these Debian packages are missing: ${missing[*]}"
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    made_policy=yes
  fi
  echo 'postfix postfix/main_mailer_type select No configuration' | debconf-set-selections
  apt-get update -q
  DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
}

install_nodemailer() {
  local home=${XDG_CACHE_HOME:-$HOME/.cache}/postern-test/$NODEMAILER
  if [ ! -d "$home/node_modules/nodemailer" ]; then
    mkdir -p "$home"
    npm install --prefix "$home" --no-audit --no-fund --ignore-scripts "$NODEMAILER"
  fi
  export POSTERN_TEST_NODE_PATH=$home/node_modules
}

install_analysers() {
  GOBIN=$scratch/bin go install "$STATICCHECK"
  GOBIN=$scratch/bin go install "$GOVULNCHECK"
}

check_format() {
  local files
  files=$(gofmt -l .)
  [ -z "$files" ] || fail "gofmt would change: $files"
}

# Pipelines that end in a command that may stop reading early fail at random under
# pipefail, and are not among the findings of shellcheck.
check_scripts() {
  local scripts early
  mapfile -t scripts < <(find . -name .git -prune -o -name '*.sh' -print)
  scripts+=(.ci/run)
  shellcheck -x "${scripts[@]}"
  early=$(awk '/^[^#]*\|[ \t]*(grep[ \t]+-[A-Za-z]*[qm]|head([ \t]|$))/ { print FILENAME ":" FNR ": " $0 }' "${scripts[@]}")
  [ -z "$early" ] || fail "these pipelines may end before their input does:"$'\n'"$early"
}

# A finding fails the run. An unreachable database is only reported.
check_vulnerabilities() {
  local log=$scratch/govulncheck status=0
  "$scratch/bin/govulncheck" -tags pam ./... >"$log" 2>&1 || status=$?
  cat "$log"
  case $status in
    0) ;;
    1) grep -q 'vuln\.go\.dev' "$log" || fail "govulncheck did not run"
       echo "The vulnerability database cannot be reached from here: not checked." ;;
    *) fail "govulncheck found something (status $status)" ;;
  esac
}

# Builds the release binaries as README.md does: the static postern for several platforms,
# and postern-pam for this machine only, since it needs libpam and a C compiler.
build_release() {
  local version arch host libraries
  version=$(git describe --tags --always --dirty 2>/dev/null || echo unknown)
  host=$(go env GOHOSTARCH)
  for arch in amd64 arm64; do
    CGO_ENABLED=0 GOOS=linux GOARCH=$arch go build -trimpath -buildvcs=false \
      -ldflags "-s -w -X main.version=$version" -o "$scratch/postern-$arch" ./cmd/postern
  done
  CGO_ENABLED=1 go build -tags pam -trimpath -buildvcs=false \
    -ldflags "-s -w -X main.version=$version" -o "$scratch/postern-pam-$host" ./cmd/postern
  "$scratch/postern-$host" version
  "$scratch/postern-pam-$host" version
  ! ldd "$scratch/postern-$host" 2>/dev/null || fail "postern is not static"
  # Not grep -q: it ends at the first match, and pipefail makes the SIGPIPE of ldd a failure.
  libraries=$(ldd "$scratch/postern-pam-$host")
  [[ $libraries == *libpam.so* ]] || fail "postern-pam is not linked with libpam"
}

# The units contain the path of an installed program, which is replaced here. systemd before
# 253 does not know notify-reload, which the unit allows for.
verify_units() {
  local unit program later=
  program=$scratch/postern-pam-$(go env GOHOSTARCH)
  [ "$(systemd-analyze --version | awk 'NR == 1 { print $2 }')" -ge 253 ] || later='/^Type=notify-reload$/d'
  mkdir "$scratch/units"
  for unit in docs/systemd/*.service docs/systemd/*.socket; do
    sed "s|^ExecStart=[^ ]*|ExecStart=$program|; $later" "$unit" >"$scratch/units/${unit##*/}"
  done
  for unit in "$scratch"/units/*; do
    systemd-analyze verify --man=no --recursive-errors=no "$unit"
  done
  systemd-analyze security --offline=true --no-pager --threshold=20 "$scratch/units/postern.service" | tail -n 1
}

step "packages"
install_packages
install_nodemailer
install_analysers

step "gofmt"
check_format

step "shellcheck"
check_scripts

step "go mod"
go mod tidy -diff
go mod verify

step "go vet"
go vet ./...
go vet -tags pam ./...

step "staticcheck"
"$scratch/bin/staticcheck" ./...
"$scratch/bin/staticcheck" -tags pam ./...

step "govulncheck"
check_vulnerabilities

step "build"
build_release

step "systemd units"
verify_units

step "tests"
export POSTERN_TEST_REQUIRE_PEERS=1
go test -race -timeout 12m ./...

# go-smtp's server has a data race, so the run above skips the comparison with it.
step "comparison with go-smtp's server"
go test ./server/smtpd -run FuzzDifferential

# The tests of the whole server, in the run above, build both programs themselves.
step "tests with libpam"
go test -race -tags pam ./server/auth/pam ./cmd/postern

# Images, compose.yaml and the demo with a Docker Engine of its own.
step "containers"
test/docker.sh

step "packages in a clean Debian"
test/packages.sh

step "five minutes: Postfix with saslauthd and PAM"
test/fiveminutes.sh
