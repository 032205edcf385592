package main

import (
	"errors"
	"path/filepath"
	"strconv"
)

const dovecotCommon = `
base_dir = {dir}/run
state_dir = {dir}/state
log_path = {dir}/dovecot.log
auth_mechanisms = plain login
auth_cache_size = {cache}
passdb {
  driver = passwd-file
  args = scheme=BLF-CRYPT username_format=%u {site}/users
}
`

// dovecotCache is a size that nothing has to leave for want of room.
const dovecotCache = "10M"

// startDovecotAuth starts Dovecot for its auth service alone, on a socket.
func startDovecotAuth(s *site, c *cage, dir, cache string) (string, error) {
	const auth = `
protocols =
ssl = no
service auth {
  client_limit = 20000
  unix_listener {dir}/run/auth-postfix {
    mode = 0666
  }
}
`
	conf := filepath.Join(dir, "dovecot.conf")
	return "smtpd_sasl_type = dovecot\nsmtpd_sasl_path = " + dir + "/run/auth-postfix", errors.Join(
		fill(conf, dovecotCommon+auth, "{dir}", dir, "{site}", s.dir, "{cache}", cache),
		c.start(filepath.Join(dir, "log"), "dovecot", "-F", "-c", conf),
	)
}

// logins are the processes of Dovecot that talk to clients until they have logged
// in, and pass on TLS for as long as they are there. By default each serves one
// client and ends; in what Dovecot calls the high-performance mode a few stay
// and serve all.
type logins struct {
	each      int // clients until the end; 0 is no end
	processes int
}

// startDovecotSubmission starts its submission service.
func startDovecotSubmission(s *site, c *cage, l logins, cache string) (string, error) {
	const submission = `
protocols = submission
hostname = mx.example.org
submission_relay_host = 127.0.0.1
submission_relay_port = {hop}
ssl = required
ssl_cert = <{site}/cert.pem
ssl_key = <{site}/key.pem
ssl_min_protocol = TLSv1.2
listen = 127.0.0.1
mail_location = maildir:{dir}/mail/%u
mail_max_userip_connections = 0
first_valid_uid = 1
userdb {
  driver = static
  args = uid=mail gid=mail home={dir}/mail/%u allow_all_users=yes
}
service submission-login {
  service_count = {count}
  client_limit = 5000
  process_limit = {logins}
  inet_listener submission {
    address = 127.0.0.1
    port = {port}
  }
  inet_listener submissions {
    port = 0
  }
}
service submission {
  process_limit = 5000
}
service auth {
  client_limit = 20000
}
service anvil {
  client_limit = 20000
}
`
	dir, err := s.folder("run", "state", "mail")
	if err != nil {
		return "", err
	}
	addr, conf := freeAddr(), filepath.Join(dir, "dovecot.conf")
	return addr, errors.Join(
		fill(conf, dovecotCommon+submission, "{dir}", dir, "{site}", s.dir, "{cache}", cache,
			"{hop}", port(s.sink), "{port}", port(addr), "{count}", strconv.Itoa(l.each), "{logins}", strconv.Itoa(l.processes)),
		openTo("mail", filepath.Join(dir, "mail")),
		c.start(filepath.Join(dir, "log"), "dovecot", "-F", "-c", conf),
	)
}
