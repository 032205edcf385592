package main

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"

	"postern/test/postfix"
)

// startPostfix starts an instance with submission as Debian's master.cf has it.
// authenticator starts what it asks for passwords and returns the lines of
// main.cf for it.
func startPostfix(s *site, c *cage, authenticator func(dir string) (string, error)) (string, error) {
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

// pamService is asked by saslauthd. It checks the same hashes as the others.
const (
	pamService = "/etc/pam.d/postern-bench"
	pamLines   = "auth required pam_pwdfile.so pwdfile={site}/users\naccount required pam_permit.so\n"
)

// startSaslauthd starts it with PAM and five processes, as Debian does. It
// stays in the foreground, where its processes are its children.
func startSaslauthd(s *site, c *cage, dir string, flags ...string) (string, error) {
	run := filepath.Join(dir, "run")
	if err := os.Mkdir(filepath.Join(dir, "etc/sasl"), 0o755); err != nil { // where Debian's smtpd looks
		return "", err
	}
	args := append([]string{"saslauthd", "-d", "-a", "pam", "-m", run, "-n", "5"}, flags...)
	return "smtpd_sasl_type = cyrus\nsmtpd_sasl_service = postern-bench", errors.Join(
		fill(pamService, pamLines, "{site}", s.dir),
		fill(filepath.Join(dir, "etc/sasl/smtpd.conf"), "pwcheck_method: saslauthd\nmech_list: PLAIN LOGIN\nsaslauthd_path: {run}/mux\n", "{run}", run),
		c.start(filepath.Join(dir, "saslauthd.log"), args...),
	)
}
