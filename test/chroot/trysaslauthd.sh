#!/usr/bin/env bash
# The part of test/fiveminutes.sh in namespaces of its own. root is the clean Debian with
# Postfix and saslauthd, scratch has the programs.
set -euo pipefail

: "${root:?}" "${scratch:?}"
readonly page=docs/migrating/cyrus-pam.md mailbox=$root/var/mail/alice password='correct horse'
fail() { printf 'test/fiveminutes.sh: %s\n' "$*" >&2; exit 1; }
step() { printf -- '-- %s\n' "$*"; }

# Bounded, and ended by the event.
await() { # WHAT COMMAND...
  local what=$1 tries=0
  shift
  until "$@" >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ $tries -lt 600 ] || fail "$what: not within a minute"
    sleep 0.1
  done
}

# block prints an example of the page: the one with this number of those in TOML.
block() { awk -v n="$1" '/^```/ { inside = 0 } inside && found == n; /^```toml$/ { inside = 1; found++ }' "$page"; }

# machine makes what the administrator has before: a certificate, a user, PAM, saslauthd,
# and the submission entry of the Arch wiki.
machine() {
  local live=/etc/letsencrypt/live/mail.example.org
  install -d -m 0700 "$root/etc/letsencrypt/live" "$root/etc/letsencrypt/archive"
  inside install -d -m 0755 "$live"
  inside openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj '/CN=Test authority' \
    -keyout /root/ca.key -out /usr/local/share/ca-certificates/test.crt
  inside openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=mail.example.org \
    -addext subjectAltName=DNS:mail.example.org -keyout "$live/privkey.pem" -out /root/request.pem
  inside openssl x509 -req -in /root/request.pem -copy_extensions copy -days 90 -CAkey /root/ca.key \
    -CA /usr/local/share/ca-certificates/test.crt -out "$live/fullchain.pem"
  inside update-ca-certificates

  inside useradd --create-home alice
  printf 'alice:%s\n' "$password" | inside chpasswd
  printf 'auth required pam_unix.so\naccount required pam_unix.so\n' >"$root/etc/pam.d/smtp"
  inside install -d -m 0710 -g sasl /run/saslauthd
  inside saslauthd -a pam -c -m /run/saslauthd
  inside usermod -a -G sasl postfix

  mkdir -p "$root/etc/postfix/sasl"
  printf 'pwcheck_method: saslauthd\nsaslauthd_path: /run/saslauthd/mux\nmech_list: PLAIN LOGIN\n' >"$root/etc/postfix/sasl/smtpd.conf"
  inside postconf -e myhostname=mail.example.org 'mydestination=mail.example.org, example.org, localhost' \
    "smtpd_tls_cert_file=$live/fullchain.pem" "smtpd_tls_key_file=$live/privkey.pem" \
    smtpd_sasl_local_domain=example.org maillog_file=/var/log/mail.log
  inside postconf -M 'submission/inet=submission inet n - n - - smtpd'
  inside postconf -P submission/inet/syslog_name=postfix/submission submission/inet/smtpd_tls_security_level=encrypt \
    submission/inet/smtpd_sasl_auth_enable=yes submission/inet/smtpd_tls_auth_only=yes \
    submission/inet/smtpd_recipient_restrictions=permit_sasl_authenticated,reject
  inside postfix start
}

send() { # PORT MARK PASSWORD
  inside swaks --server "mail.example.org:$1" --tls --from alice@example.org --to alice@example.org \
    --auth PLAIN --auth-user alice --auth-password "$3" --header "Subject: $2" 2>&1
}

accepted() { # PORT MARK
  local reply id
  reply=$(send "$1" "$2" "$password") || fail "swaks: $reply"
  id=$(sed -n 's/^<~ *250 2\.0\.0 .*queued as \([0-9A-Za-z]*\).*/\1/p' <<<"$reply")
  [ -n "$id" ] || fail "no queue id in: $reply"
  await "message $2 in the mailbox of alice" grep -qx "Subject: $2" "$mailbox"
  await "queue id $id in the log of Postfix" grep -q "$id: removed" "$root/var/log/mail.log"
}

refused() { # REPLY PASSWORD
  local reply
  ! reply=$(send 587 refused "$2") || fail "a login was accepted: $reply"
  grep -Eq "^<~?\*+ +$1" <<<"$reply" || fail "no $1 in: $reply"
}

# PAM gives the reason, which saslauthd does not.
expired() {
  inside chage -E 0 alice
  refused '535 5\.7\.13' "$password"
  inside chage -E -1 alice
}

# check has neither warn nor FAIL.
check() { # COMMAND...
  local report
  report=$(inside "$@" 2>&1) || fail "$*: $report"
  printf '%s\n' "$report"
}

login() { # COMMAND...
  local report
  report=$(printf '%s\n' "$password" | inside "$@" auth test -u alice -p - 2>&1) || fail "$* auth test: $report"
  printf '%s\n' "$report"
}

# start runs the command of the unit as its user, with the capability and the folders that
# systemd would give. The groups are those that the page gives to the user.
start() {
  local unit=$root/etc/systemd/system/postern.service command
  read -r -a command <<<"$(sed -n 's/^ExecStart=//p' "$unit")"
  inside install -d -m 0700 -o postern -g postern /run/postern /var/cache/postern
  run postern /usr/bin/setpriv --reuid postern --regid postern --init-groups --no-new-privs \
    --inh-caps -all,+net_bind_service --ambient-caps -all,+net_bind_service --bounding-set -all,+net_bind_service \
    /usr/bin/env RUNTIME_DIRECTORY=/run/postern STATE_DIRECTORY=/var/lib/postern CACHE_DIRECTORY=/var/cache/postern "${command[@]}"
  healthy runuser -u postern -- postern
}

# Not with the function inside: the process has to be the program, to receive the signal.
run() { # LOG COMMAND...
  local log=$scratch/$1.log
  shift
  chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@" >>"$log" 2>&1 &
  server=$!
}

healthy() { # COMMAND...
  until inside "$@" health >/dev/null 2>&1; do
    kill -0 "$server" 2>/dev/null || fail "the server ended: $(tail -n 5 "$scratch/postern.log")"
    sleep 0.1
  done
}

# take_over and go_back are the commands of the page. Postfix closes and opens its ports
# some time after the reload, so the next step waits for that, as the restarts of systemd do.
take_over() {
  cp -p "$root/etc/postfix/master.cf" "$root/etc/postfix/master.cf.before"
  inside postconf -M submission/inet
  inside postconf -M# submission/inet submissions/inet
  inside postfix reload >>"$scratch/machine.log" 2>&1
  await "the end of Postfix's port 587" free 587
}

go_back() {
  cp -p "$root/etc/postfix/master.cf.before" "$root/etc/postfix/master.cf"
  inside postfix reload >>"$scratch/machine.log" 2>&1
  await "Postfix's port 587" eval '! free 587'
}

free() { # PORT
  ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

stop() { # PID
  kill -TERM "$1"
  wait "$1" || fail "a process ended with status $?"
}

ip link set lo up
hostname mail.example.org
bookworm_mount "$root"

step "a Postfix with saslauthd and PAM"
machine >"$scratch/machine.log" 2>&1
answer=$(inside testsaslauthd -s smtp -u alice -p "$password") || fail "testsaslauthd: $answer"
accepted 587 before

step "postern with saslauthd, beside the old service"
begun=$SECONDS
install -m 0755 "$scratch/postern" "$root/usr/bin/postern"
inside useradd --system --home-dir /nonexistent --shell /usr/sbin/nologin postern
inside install -d -m 0750 -g postern /etc/postern
inside install -d -m 0700 -o postern -g postern /var/lib/postern
install -D -m 0644 -t "$root/etc/systemd/system" docs/systemd/postern.service
inside setfacl -R -m u:postern:rX,d:u:postern:rX /etc/letsencrypt/live /etc/letsencrypt/archive
inside usermod -a -G sasl postern
# The example has the path of Debian's Postfix with a chroot.
path='s|/var/spool/postfix/var/run/saslauthd|/run/saslauthd|'
{ block 1 | sed "$path"; block 2; } >"$root/etc/postern/config.toml"
check runuser -u postern -- postern check --strict
login runuser -u postern -- postern
start
accepted 1587 beside
stop "$server"

step "postern with saslauthd, in place of the old service"
inside postconf mynetworks
inside postconf -e 'local_header_rewrite_clients ='
block 1 | sed "$path" >"$root/etc/postern/config.toml"
take_over
start
accepted 587 saslauthd
echo "five minutes: Postfix with saslauthd and PAM, from the installation to the first message: $((SECONDS - begun)) s"
refused 535 'wrong horse'
stop "$server"

step "back to the old service, and the change once more"
go_back
accepted 587 back
take_over

step "the PAM helper in place of saslauthd"
kill -TERM "$(cat "$root/run/saslauthd/saslauthd.pid")"
begun=$SECONDS
install -m 0755 "$scratch/postern-pam" "$root/usr/bin/postern-pam"
install -m 0644 -t "$root/etc/systemd/system" docs/systemd/postern-pam-helper.service
inside install -d -m 0755 /run/postern-pam
read -r -a command <<<"$(sed -n 's/^ExecStart=//p' "$root/etc/systemd/system/postern-pam-helper.service")"
run helper "${command[@]}"
helper=$server
await "the socket of the PAM helper" test -S "$root/run/postern-pam/mux"
answer=$(inside testsaslauthd -f /run/postern-pam/mux -s smtp -u alice -p "$password") || fail "testsaslauthd: $answer"
block 3 >"$root/etc/postern/config.toml"
check runuser -u postern -- postern check --strict
login runuser -u postern -- postern
start
accepted 587 helper
echo "five minutes: PAM helper of its own, from the installation to the first message: $((SECONDS - begun)) s"
refused 535 'wrong horse'
expired
grep -q 'msg=pam outcome=OK user=alice service=smtp' "$scratch/helper.log" || fail "no request in the log of the helper"
stop "$server"
stop "$helper"

step "a PAM helper that the server starts"
block 4 >"$root/etc/postern/config.toml"
check postern-pam check --strict
login postern-pam
run postern postern-pam serve
healthy postern-pam
accepted 587 pam
refused 535 'wrong horse'
expired
stop "$server"
inside postfix stop >>"$scratch/machine.log" 2>&1
echo "ok"
