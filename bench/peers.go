package main

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"

	"postern/test/postfix"
)

// startPostfix starts an instance with the submission service of Debian's master.cf.
// authenticator starts the server that verifies passwords and returns its lines of
// main.cf.
func startPostfix(s *site, c *cgroup, authenticator func(dir string) (string, error)) (string, error) {
	dir, err := s.folder("etc", "run")
	if err != nil {
		return "", err
	}
	sasl, err := authenticator(dir)
	if err != nil {
		return "", err
	}
	addr := freeAddr()
	hop, _ := strconv.Atoi(port(s.sink))
	i := postfix.Instance{Dir: dir, NextHop: hop, Services: []string{addr + " inet n - n - 3000 smtpd"}, Settings: []string{
		"myhostname = mx.example.org",
		"mynetworks =",
		"smtpd_tls_security_level = encrypt",
		"smtpd_tls_chain_files = " + s.path("key.pem") + ", " + s.path("cert.pem"),
		"smtpd_sasl_auth_enable = yes",
		"smtpd_relay_restrictions = permit_sasl_authenticated, reject",
		"smtpd_client_connection_count_limit = 0", // all clients come from one address
		sasl,
	}}
	return addr, errors.Join(i.Write(), c.start(filepath.Join(dir, "log"), "postfix", "-c", i.Conf(), "start"))
}

// pamService is the PAM service of saslauthd. It checks the same hashes as the other
// servers.
const (
	pamService = "/etc/pam.d/postern-bench"
	pamLines   = "auth required pam_pwdfile.so pwdfile={site}/users\naccount required pam_permit.so\n"
)

// startSaslauthd starts saslauthd with PAM and five processes, as Debian does, in the
// foreground.
func startSaslauthd(s *site, c *cgroup, dir string, flags ...string) (string, error) {
	run := filepath.Join(dir, "run")
	if err := os.Mkdir(filepath.Join(dir, "etc/sasl"), 0o755); err != nil { // Debian's smtpd reads it
		return "", err
	}
	args := append([]string{"saslauthd", "-d", "-a", "pam", "-m", run, "-n", "5"}, flags...)
	return "smtpd_sasl_type = cyrus\nsmtpd_sasl_service = postern-bench", errors.Join(
		fill(pamService, pamLines, "{site}", s.dir),
		fill(filepath.Join(dir, "etc/sasl/smtpd.conf"), "pwcheck_method: saslauthd\nmech_list: PLAIN LOGIN\nsaslauthd_path: {run}/mux\n", "{run}", run),
		c.start(filepath.Join(dir, "saslauthd.log"), args...),
	)
}

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

// dovecotCache is large enough for all entries.
const dovecotCache = "10M"

// startDovecotAuth starts Dovecot with only its auth service, on a socket.
func startDovecotAuth(s *site, c *cgroup, dir, cache string) (string, error) {
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

// logins are the login processes of Dovecot, which serve clients until they have logged
// in, and then forward their TLS connections. By default each process serves one client
// and ends; in Dovecot's high-performance mode a few processes serve all clients.
type logins struct {
	each      int // clients until the process ends; 0 is no limit
	processes int
}

// startDovecotSubmission starts its submission service.
func startDovecotSubmission(s *site, c *cgroup, l logins, cache string) (string, error) {
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
