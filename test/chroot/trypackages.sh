#!/usr/bin/env bash
# The part of test/packages.sh in the network of its own. root is the clean Debian, with
# Postfix and the packages of two versions in /packages.
set -euo pipefail

: "${root:?}" "${scratch:?}"
ip link set lo up
fail() { printf 'test/packages.sh: %s\n' "$*" >&2; exit 1; }

# start runs the command of the unit as its user, with the capability and the folders that
# systemd would give. The log goes to a file.
start() {
  local unit=$root/usr/lib/systemd/system/postern.service user command
  user=$(sed -n 's/^User=//p' "$unit")
  read -r -a command <<<"$(sed -n 's/^ExecStart=//p' "$unit")"
  install -d -m 0700 -o "$(inside id -u "$user")" -g "$(inside id -g "$user")" "$root/var/cache/postern"
  chroot "$root" /usr/bin/setpriv --reuid "$user" --regid "$user" --init-groups --no-new-privs \
    --inh-caps -all,+net_bind_service --ambient-caps -all,+net_bind_service --bounding-set -all,+net_bind_service \
    /usr/bin/env -i PATH=/usr/bin:/bin STATE_DIRECTORY=/var/lib/postern CACHE_DIRECTORY=/var/cache/postern \
    "${command[@]}" >>"$scratch/postern.log" 2>&1 &
  server=$!
  # Bounded, and ended by the event: the server answers, or has ended.
  until inside postern health >/dev/null 2>&1; do
    kill -0 "$server" 2>/dev/null || fail "the server ended: $(tail -n 5 "$scratch/postern.log")"
    sleep 0.1
  done
}

stop() {
  kill -TERM "$server"
  wait "$server" || fail "the server ended with status $?"
}

send() { # MARK
  local reply
  reply=$(inside swaks --server mail.example.org:587 --tls --from alice@mail.example.org --to root@mail.example.org \
    --auth PLAIN --auth-user alice --auth-password 'correct horse' --header "Subject: $1" 2>&1) || fail "swaks: $reply"
  grep -Eq '<~ +250 2\.0\.0 .*queued as' <<<"$reply" || fail "no queue id in: $reply"
}

configure() {
  install -d -m 0750 -g "$(inside id -g postern)" "$root/etc/postern/tls"
  inside openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 90 -subj /CN=mail.example.org \
    -addext subjectAltName=DNS:mail.example.org -keyout /etc/postern/tls/privkey.pem -out /etc/postern/tls/fullchain.pem 2>/dev/null
  printf '[server]\nhostname = "mail.example.org"\n' >"$root/etc/postern/config.toml"
  echo 'correct horse' | inside postern passwd --stdin /etc/postern/users alice >/dev/null
  inside chgrp -R postern /etc/postern
  inside chmod 0640 /etc/postern/users /etc/postern/tls/privkey.pem /etc/postern/config.toml
}

kept() { (cd "$root/etc/postern" && find . -type f -exec sha256sum {} + | sort && stat -c '%a %U %G %n' . users tls/privkey.pem); }

modes() { # MODE OWNER GROUP PATH
  local found
  found=$(inside stat -c '%a %U %G' "$4")
  [ "$found" = "$1 $2 $3" ] || fail "$4 has $found, not $1 $2 $3"
}

inside postfix start >"$scratch/postfix.log" 2>&1
begun=$SECONDS
inside dpkg -i /packages/postern_1.0.0_amd64.deb >"$scratch/dpkg.log" 2>&1
grep -q 'postern is not started yet' "$scratch/dpkg.log" || fail "the installation does not name the next step"
modes 750 root postern /etc/postern
modes 700 postern postern /var/lib/postern
configure
report=$(inside runuser -u postern -- postern check 2>&1) || fail "postern check: $report"
printf '%s\n' "$report"
start
send first
echo "five minutes: Debian package, from the installation to the first message: $((SECONDS - begun)) s"

before=$(kept)
inside dpkg -i /packages/postern_1.0.1_amd64.deb /packages/postern-pam_1.0.1_amd64.deb >>"$scratch/dpkg.log" 2>&1
stop
start
send second
[[ $(inside postern version) == *1.0.1* ]] || fail "the upgrade left $(inside postern version)"
[[ $(inside postern-pam version) == *1.0.1* ]] || fail "postern-pam does not run"
[ "$(kept)" = "$before" ] || fail "the upgrade changed /etc/postern"
stop

inside dpkg -r postern-pam postern >>"$scratch/dpkg.log" 2>&1
[ ! -e "$root/usr/bin/postern" ] || fail "the program is still there"
[ "$(kept)" = "$before" ] || fail "the removal changed /etc/postern"
inside dpkg -P postern-pam postern >>"$scratch/dpkg.log" 2>&1
grep -q 'kept /etc/postern' "$scratch/dpkg.log" || fail "the purge does not say what it keeps"
[ -s "$root/etc/postern/users" ] || fail "the purge removed the users"
[ ! -e "$root/var/lib/postern" ] || fail "the purge kept /var/lib/postern"
inside postfix stop >/dev/null 2>&1
echo "ok"
