# shellcheck shell=bash disable=SC2154 # the script that sources it sets "work"
# A private Docker Engine, for test/docker.sh. To be sourced by a script that has set "work", a
# folder that it may fill and remove:
#
#   engine_start         starts it, and sets DOCKER_HOST
#   engine_bases         imports debian:bookworm-slim and golang:1.26-bookworm
#   engine_do COMMAND    runs a command in the network namespace of the engine, where the ports
#                        of containers are published
#   engine_stop          ends it with everything in it
#
# It runs in its own process, mount and network namespaces: its containers end with it, even if
# the script is killed, and so do its bridges, rules and mounts. No registry is used: the base
# images are Debian from its packages, and the Go of this machine.

go_cache=${XDG_CACHE_HOME:-$HOME/.cache}/postern-test/go-build
readonly engine_host=172.17.0.1 proxy_port=3142 # as seen from a build
# shellcheck disable=SC2034 # test/docker.sh uses them
build_args=(
  --build-arg "http_proxy=http://$engine_host:$proxy_port" --build-arg "no_proxy=$engine_host"
  --build-arg "GOPROXY=http://$engine_host:$proxy_port/modules"
)
engine_pid='' engine_main='' proxy_pid='' made_etc=''

# engine_remains removes what a run leaves that was killed: folders of control groups, and files.
engine_remains() {
  local group
  while read -r group; do
    rmdir "$group" 2>/dev/null || true # it may have a process that is ending
  done < <(find /sys/fs/cgroup -depth -type d -path '*/postern-docker-test*' 2>/dev/null)
  [ ! -d "$work" ] || rm -rf --one-file-system "$work"
}

engine_start() {
  local i
  mkdir -p "$work/data" "$work/exec"
  [ -d /etc/docker ] || { mkdir /etc/docker; made_etc=yes; }
  # shellcheck disable=SC2016 # the inner shell expands these
  setpriv --pdeathsig KILL unshare --net --mount --pid --fork --kill-child --mount-proc bash -euc '
    mount -t tmpfs tmpfs /run
    mount -t tmpfs tmpfs /etc/docker
    ip link set lo up
    exec dockerd --data-root "$1/data" --exec-root "$1/exec" --pidfile "$1/exec/pid" --host "unix://$1/socket" \
      --bip "$2/16" --cgroup-parent postern-docker-test' - "$work" "$engine_host" >"$work/engine.log" 2>&1 &
  engine_pid=$!
  export DOCKER_HOST=unix://$work/socket
  for ((i = 0; i < 300; i++)); do
    ! docker version >/dev/null 2>&1 || break
    kill -0 "$engine_pid" 2>/dev/null || break
    sleep 0.1
  done
  docker version >/dev/null 2>&1 || { tail -n 5 "$work/engine.log" >&2; return 1; }
  engine_main=$(cat "/proc/$engine_pid/task/$engine_pid/children")
  engine_main=${engine_main%% *}
  engine_proxy
}

engine_proxy() {
  local proxy=
  go mod download # what the proxy serves
  eval "$(apt-config shell proxy Acquire::http::Proxy)"
  http_proxy=${proxy:-${http_proxy:-}} setpriv --pdeathsig KILL python3 test/docker/proxy.py "$engine_main" "$proxy_port" \
    "${XDG_CACHE_HOME:-$HOME/.cache}/postern-test/debs" "$(go env GOMODCACHE)/cache/download" >"$work/proxy.log" 2>&1 &
  proxy_pid=$!
}

engine_do() { nsenter --target "$engine_main" --net "$@"; }

# engine_compile compiles what the images contain into a build cache that is kept, and that becomes
# a part of the image of Go: compiling everything in three builds takes minutes. -trimpath makes
# the results independent of folders.
engine_compile() {
  local arch
  for arch in amd64 arm64; do
    CGO_ENABLED=0 GOARCH=$arch GOCACHE=$go_cache go build -trimpath -buildvcs=false -ldflags '-s -w' -o /dev/null ./cmd/postern
  done
  CGO_ENABLED=1 GOCACHE=$go_cache go build -tags pam -trimpath -buildvcs=false -ldflags '-s -w' -o /dev/null ./cmd/postern
}

engine_bases() {
  local root=$work/root
  mkdir -p "$root/root/.cache"
  tar -C "$root" --numeric-owner -xf "$(bookworm_tarball)"
  # As the real image does.
  rm -rf "$root"/usr/share/{doc,man,locale,info} "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
  echo 'Acquire::Languages "none";' >"$root/etc/apt/apt.conf.d/docker-no-languages"
  tar -C "$root" --numeric-owner -c . | docker import --change 'CMD ["bash"]' - debian:bookworm-slim >/dev/null
  cp -a "$go_cache" "$root/root/.cache/go-build"
  tar --numeric-owner -c --exclude "./usr/local/go/test" -C "$root" . -C / ./etc/ssl/certs/ca-certificates.crt \
    --transform "s|^\.$(go env GOROOT)|./usr/local/go|" ".$(go env GOROOT)" |
    docker import --change 'ENV PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
      --change 'ENV GOTOOLCHAIN=local' - golang:1.26-bookworm >/dev/null
  rm -rf --one-file-system "$root"
}

engine_stop() {
  local pid
  for pid in $proxy_pid $engine_pid; do
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  # The kernel ends the processes of the namespace after its first one; only then are the
  # mounts and the groups free.
  for ((pid = 0; pid < 100; pid++)); do
    [ -e "/proc/${engine_main:-none}" ] || break
    sleep 0.1
  done
  engine_remains
  [ -z "$made_etc" ] || rmdir /etc/docker
}
