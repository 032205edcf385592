#!/usr/bin/env bash
# Build the images and run them with a real Docker Engine, as docs/containers.md describes.
# Called by test/run.sh, which installs docker.io and docker-compose. Needs root.
#
#   test/docker.sh
#
# The engine is private (see test/docker/engine.sh): nothing of this machine's own is touched,
# and nothing is left at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=/usr/bin:$PATH # Debian's docker before any other
unset COMPOSE_FILE COMPOSE_PROJECT_NAME DOCKER_CONTEXT "${!POSTERN_@}"

readonly work=${TMPDIR:-/tmp}/postern-docker-test
# shellcheck source=test/chroot/bookworm.sh
. test/chroot/bookworm.sh
# shellcheck source=test/docker/engine.sh
. test/docker/engine.sh

begin=$SECONDS
step() { printf -- '-- %3d s: %s\n' $((SECONDS - begin)) "$*"; }
fail() { printf 'test/docker.sh: %s\n' "$*" >&2; exit 1; }

# until_true SECONDS WHAT COMMAND waits for an event; the time only bounds a failure.
until_true() {
  local i limit=$1 what=$2
  shift 2
  for ((i = 0; i < limit * 5; i++)); do
    ! "$@" >/dev/null 2>&1 || return 0
    sleep 0.2
  done
  fail "$what: not within $limit s"
}

# expect STATUS PATTERN COMMAND runs a command and compares its status and its output.
expect() {
  local want=$1 pattern=$2 status=0
  shift 2
  output=$(timeout 60 "$@" 2>&1 </dev/null) || status=$?
  [[ $status =~ ^$want$ ]] || fail "$*: status $status, want $want: $output"
  [[ $output =~ $pattern ]] || fail "$*: no match for \"$pattern\": $output"
}

# ---------------------------------------------------------------- the site of an administrator

# The working tree without what git ignores, a certificate of a private authority, and the
# configuration in ./etc, which no image may contain.
make_site() {
  local arguments="{ http_proxy: 'http://$engine_host:$proxy_port', no_proxy: $engine_host, GOPROXY: 'http://$engine_host:$proxy_port/modules' }"
  mkdir -p "$work/site" "$work/bin" "$work/ca"
  git ls-files -co --exclude-standard -z | { while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done; } |
    tar --null -T - -c | tar -x -C "$work/site"
  (
    cd "$work/ca"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj '/CN=Test authority' \
      -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign -keyout ca.key -out ca.pem
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj '/CN=mail.example.org' -keyout privkey.pem -out leaf.csr
    printf '%s\n' subjectAltName=DNS:mail.example.org extendedKeyUsage=serverAuth keyUsage=digitalSignature >extensions
    openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 25 -extfile extensions -out leaf.pem
    cat leaf.pem ca.pem >fullchain.pem
  ) >/dev/null 2>&1
  cp "$work/ca/fullchain.pem" "$work/ca/privkey.pem" "$work/site/"
  # What an administrator has on another machine is docker-compose and sudo here.
  # shellcheck disable=SC2016 # the script that is written expands these
  printf '#!/bin/sh\n[ "$1" = compose ] || exec /usr/bin/docker "$@"\nshift\nexec docker-compose "$@"\n' >"$work/bin/docker"
  printf '#!/bin/sh\nexec "$@"\n' >"$work/bin/sudo"
  chmod 755 "$work/bin/docker" "$work/bin/sudo"
  cat >"$work/override.yaml" <<EOF
services:
  postern: { build: { args: $arguments } }
  postfix: { build: { args: $arguments }, environment: { RELAYHOST: "[sink]:2525" } }
  sink:
    image: postern-postfix
    entrypoint: [smtp-sink, -u, nobody, -d, /tmp/mail., "0.0.0.0:2525", "100"]
    healthcheck: { disable: true }
    networks: [internet]
    depends_on: { postfix: { condition: service_healthy } }
EOF
  export COMPOSE_FILE=compose.yaml:$work/override.yaml
}

compose() { (cd "$work/site" && docker-compose "$@" 2>&1); }

# The lines of the quick start are those of the documentation.
check_documentation() {
  local line
  while IFS= read -r line; do
    grep -qF -- "    $line" docs/containers.md || fail "docs/containers.md does not have the line of the quick start: $line"
  done < <(sed -n '/^set -eu$/,$p' test/docker/quickstart.sh | sed '1d; /^$/d')
}

# ---------------------------------------------------------------- the images

build() { # build NAME SECONDS-FROM ARGUMENTS...
  local name=$1 start=$SECONDS
  shift
  docker build -q "${build_args[@]}" -t "$name" "$@" >"$work/build.log" 2>&1 || { tail -n 30 "$work/build.log" >&2; fail "cannot build $name"; }
  printf '   %-16s %3d s, %s bytes in %s layers\n' "$name" $((SECONDS - start)) \
    "$(docker image inspect "$name" --format '{{.Size}}')" "$(docker image inspect "$name" --format '{{len .RootFS.Layers}}')"
}

build_images() {
  export DOCKER_BUILDKIT=1
  build postern .
  build postern:arm64 --platform linux/arm64 .
  build postern-pam -f packaging/docker/pam.Dockerfile .
  build postern-postfix packaging/docker/postfix
}

run() { docker run --rm "$@"; }

check_images() {
  local version
  version=$(run postern version)
  [[ $version == "postern $(docker image inspect postern --format '{{index .Config.Labels "org.opencontainers.image.version"}}') "* ]] ||
    fail "the label of the version is not that of the program: $version"
  [ "$(docker image inspect postern:arm64 --format '{{.Architecture}}')" = arm64 ] || fail "the image for arm64 is not one"
  copy_from postern:arm64 /usr/bin/postern "$work/arm64"
  [[ $(readelf -h "$work/arm64") == *AArch64* ]] || fail "the program for arm64 is not one"
  copy_from postern /usr/bin/postern "$work/amd64"
  [[ $(go version -m "$work/amd64") == *"dep"*"github.com/emersion/go-smtp"* ]] || fail "the program does not list its modules"
  [[ $(run postern-pam version) == "postern "* ]] || fail "postern-pam does not run"
  [ "$(docker image inspect postern --format '{{len .RootFS.Layers}}')" = 1 ] || fail "the image has more than one layer"
}

copy_from() { # copy_from IMAGE PATH FILE
  local container
  container=$(docker create --platform "$(docker image inspect "$1" --format '{{.Os}}/{{.Architecture}}')" "$1")
  docker cp "$container:$2" "$3" >/dev/null
  docker rm "$container" >/dev/null
}

# ---------------------------------------------------------------- mistakes

# A configuration folder for user 65532 as the quick start makes it.
make_etc() {
  local etc=$work/$1
  mkdir -p "$etc/tls"
  cp "$work/ca/fullchain.pem" "$work/ca/privkey.pem" "$etc/tls/"
  printf '[server]\nhostname = "mail.example.org"\n' >"$etc/config.toml"
  chown -R 65532:65532 "$etc"
  printf 'correct horse\n' | run -i -v "$etc:/etc/postern" postern passwd --stdin /etc/postern/users alice >/dev/null 2>&1
}

check_mistakes() {
  local etc=$work/etc
  make_etc etc
  # Without a file: three lines, and never a demo.
  expect 78 'no configuration file /etc/postern/config.toml.*nothing is mounted.*mount the folder.*demo' docker run --rm postern
  [ "$(wc -l <<<"$output")" = 3 ] || fail "not three lines: $output"
  expect 78 'although /etc/postern has other files' docker run --rm -v "$etc/tls:/etc/postern:ro" postern
  # A path that does not exist on the host becomes a folder.
  expect 78 'is empty' docker run --rm -v "$work/nothing/etc:/etc/postern:ro" postern
  expect 78 'config.toml is a directory.*correct the path' docker run --rm -v "$work/nothing/config.toml:/etc/postern/config.toml:ro" postern
  # A spool that the user cannot write to.
  mkdir "$work/spool"
  printf '[server]\nhostname = "mail.example.org"\n[relay]\nspool = "/spool"\n' >"$etc/spool.toml"
  expect 1 'FAIL  spool .*run chown -R' docker run --rm -v "$etc:/etc/postern:ro" -v "$work/spool:/spool" postern check -c /etc/postern/spool.toml --offline
  expect '(1|78)' 'relay.spool: .*permission denied.*65532' docker run --rm -v "$etc:/etc/postern:ro" -v "$work/spool:/spool" postern serve -c /etc/postern/spool.toml
  # Files that only root can read.
  mkdir "$work/private"
  cp -r "$etc/." "$work/private/"
  chown -R 0:0 "$work/private"
  chmod 0600 "$work/private/config.toml"
  expect 78 'permission denied' docker run --rm -v "$work/private:/etc/postern:ro" postern
  # Secrets in the environment, and other variables.
  expect 78 'POSTERN_TLS_KEY: takes the path of a file' docker run --rm -v "$etc:/etc/postern:ro" -e POSTERN_TLS_KEY="$(cat "$work/ca/privkey.pem")" postern
  [[ $output != *BEGIN* ]] || fail "the error has the key: $output"
  expect 78 'POSTERN_RELAY_PASSWORD: secrets are not read' docker run --rm -v "$etc:/etc/postern:ro" -e POSTERN_RELAY_PASSWORD=hunter2 postern
  [[ $output != *hunter2* ]] || fail "the error has the password: $output"
  expect 78 'did you mean POSTERN_HOSTNAME' docker run --rm -v "$etc:/etc/postern:ro" -e POSTERN_HOSTNAM=mail.example.org postern
}

# ---------------------------------------------------------------- the image at work

send() { # send PORT USER PASSWORD SUBJECT
  engine_do swaks --silent 1 --server 127.0.0.1 --port "$1" --tls --auth PLAIN --auth-user "$2" --auth-password "$3" --ehlo client.example.org \
    --from alice@example.org --to bob@example.com --header "Subject: $4"
}

# shellcheck disable=SC2016 # the inner shell expands these
greeting() { engine_do bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$1" && read -r -t 5 line <&3 && echo "$line"' - "$1"; }

# Any user, a read-only root file system, no capability, settings from the environment, and what
# Kubernetes sets for a service with this name.
check_settings() {
  local etc=$work/any name=settings
  make_etc any
  chown -R 12345:12345 "$etc"
  docker run -d --name $name -u 12345:12345 --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges -p 2587:587 \
    -v "$etc:/etc/postern" -v /var/lib/postern -v /var/spool/postern -e POSTERN_HOSTNAME=env.example.org -e POSTERN_LOG_LEVEL=debug -e POSTERN_SPOOL=/var/spool/postern \
    -e POSTERN_SERVICE_HOST=10.0.0.1 -e POSTERN_PORT=tcp://10.0.0.1:587 -e POSTERN_PORT_587_TCP_ADDR=10.0.0.1 postern >/dev/null
  until_true 20 "health of the image" docker exec $name postern health
  [[ $(greeting 2587) == "220 env.example.org "* ]] || fail "the greeting does not have POSTERN_HOSTNAME"
  expect '.*' 'ok    environment    POSTERN_HOSTNAME sets server.hostname: env.example.org' docker exec $name postern check --offline
  # A user that is added in the running container can log in.
  printf 'battery staple\n' | docker exec -i $name postern passwd --stdin /etc/postern/users carol >/dev/null 2>&1
  until_true 20 "the login of an added user" send 2587 carol 'battery staple' added
  ! send 2587 carol wrong refused >/dev/null 2>&1 || fail "a wrong password was accepted"
  docker stop -t 40 $name >/dev/null
  [ "$(docker inspect $name --format '{{.State.ExitCode}}')" = 0 ] || fail "docker stop: $(docker logs $name 2>&1 | tail -n 3)"
  docker rm -v $name >/dev/null
}

check_demo() {
  local password log
  docker run -d --name demo -p 1587:587 postern demo >/dev/null
  until_true 20 "the demo" greeting 1587
  until_true 20 "the password of the demo" bash -c 'docker logs demo 2>/dev/null | grep "^  password "'
  password=$(docker logs demo 2>/dev/null | sed -n 's/^  password  //p')
  [[ $(greeting 1587) == "220 postern-demo.invalid "* ]] || fail "the greeting of the demo does not say so: $(greeting 1587)"
  log=$(engine_do swaks --server 127.0.0.1 --port 1587 --tls --auth PLAIN --auth-user demo --auth-password "$password" \
    --from demo@example.org --to you@example.com) || fail "the demo refuses a message: $log"
  [[ $log == *"this is a demo"* ]] || fail "the reply of the demo does not say so: $log"
  docker rm -f -v demo >/dev/null
}

# ---------------------------------------------------------------- compose

container() { compose ps -q "$1" 2>/dev/null; }
healthy() { [ "$(docker inspect "$(container "$1")" --format '{{.State.Health.Status}}')" = healthy ]; }
arrived() { docker exec "$(container sink)" sh -c 'cat /tmp/mail.*' | grep -F "Subject: $1"; }

# From nothing to the first message, with the commands of the documentation.
check_quickstart() {
  local start=$SECONDS up
  (
    cd "$work/site"
    PATH=$work/bin:$PATH PASSWORD='correct horse' timeout 300 python3 "$OLDPWD/test/docker/terminal.py" test/docker/quickstart.sh
  ) >"$work/quickstart.log" 2>&1 </dev/null || { tail -n 40 "$work/quickstart.log" >&2; fail "the quick start"; }
  up=$SECONDS
  compose up -d sink >"$work/sink.log" || fail "$(cat "$work/sink.log")"
  until_true 45 "compose: a healthy postern" healthy postern
  printf '   up and healthy %d s after the last command\n' $((SECONDS - up))
  send 587 alice 'correct horse' first >/dev/null || fail "compose refuses a message: $(compose logs --tail 20)"
  printf '   first message accepted after %d s, with the builds of the images\n' $((SECONDS - start))
  until_true 30 "compose: the message in the sink" arrived first
  ! send 587 alice wrong refused >/dev/null 2>&1 || fail "compose accepts a wrong password"
}

check_compose() {
  local text id layers
  text=$(compose run --rm -T postern check) || fail "check in compose: $text"
  [[ $text != *$'\n'warn* && $text != *$'\n'FAIL* ]] || fail "check in compose is not content: $text"
  text=$(compose exec -T postern postern check --strict) || fail "check in the running container: $text"
  # What Postfix calls itself, and that nobody but postern may relay.
  text=$(docker exec "$(container postfix)" postconf -h myhostname)
  [ "$text" = mail.example.org ] || fail "Postfix calls itself $text"
  text=$(compose exec -T sink bash -c 'exec 3<>/dev/tcp/postfix/25; printf "EHLO a\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\nQUIT\r\n" >&3; cat <&3')
  [[ $text == *"Relay access denied"* ]] || fail "Postfix relays for other containers: $text"
  # Neither the key nor the users are in a layer of any image.
  for text in "$(sed -n 2p "$work/ca/privkey.pem")" "$(cut -d: -f2 "$work/site/etc/users")"; do
    layers=$(grep -rlF -- "$text" "$work/data/overlay2" || true)
    [ -z "$layers" ] || fail "a secret of ./etc is in a layer: $layers"
  done
  id=$(container postern)
  compose stop >/dev/null
  [ "$(docker inspect "$id" --format '{{.State.ExitCode}}')" = 0 ] || fail "compose stop kills postern"
  compose down -v >/dev/null
}

# ---------------------------------------------------------------- the run

[ "$(id -u)" = 0 ] || fail "a Docker Engine needs root"
trap 'status=$?; engine_stop; exit $status' EXIT
exec 9>"$work.lock"
flock 9
engine_remains
check_documentation

step "engine and base images"
engine_compile
engine_start
engine_bases
make_site

step "compose: the quick start, from nothing to the first message"
check_quickstart
check_compose

step "images"
build_images
check_images

step "mistakes"
check_mistakes

step "settings, any user, docker exec"
check_settings

step "demo"
check_demo

step "done"
