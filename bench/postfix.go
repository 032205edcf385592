package main

import (
	"errors"
	"os"
	"path/filepath"
)

// Submission as Debian's master.cf has it, in an instance of its own.
const (
	postfixMaster = `
{port}     inet  n - n - 3000 smtpd
pickup     unix  n - n 60 1 pickup
cleanup    unix  n - n - 0 cleanup
qmgr       unix  n - n 300 1 qmgr
rewrite    unix  - - n - - trivial-rewrite
bounce     unix  - - n - 0 bounce
defer      unix  - - n - 0 bounce
trace      unix  - - n - 0 bounce
verify     unix  - - n - 1 verify
smtp       unix  - - n - - smtp
error      unix  - - n - - error
retry      unix  - - n - - error
proxymap   unix  - - n - - proxymap
tlsmgr     unix  - - n 1000? 1 tlsmgr
anvil      unix  - - n - 1 anvil
scache     unix  - - n - 1 scache
postlog    unix-dgram n - n - 1 postlogd
`
	postfixMain = `
compatibility_level = 3.6
queue_directory = {dir}/spool
data_directory = {dir}/data
maillog_file = {dir}/maillog
maillog_file_prefixes = {dir}
myhostname = mx.example.org
mydestination =
local_recipient_maps =
alias_maps =
alias_database =
mynetworks =
inet_interfaces = loopback-only
inet_protocols = ipv4
relayhost = [127.0.0.1]:{hop}
smtpd_tls_security_level = encrypt
smtpd_tls_chain_files = {site}/key.pem, {site}/cert.pem
smtpd_sasl_auth_enable = yes
smtpd_relay_restrictions = permit_sasl_authenticated, reject
smtpd_client_connection_count_limit = 0
{sasl}
`
)

// startPostfix starts an instance. authenticator starts what it asks for
// passwords and returns the lines of main.cf for it.
func startPostfix(s *site, c *cage, authenticator func(dir string) (string, error)) (string, error) {
	dir, err := s.folder("etc", "spool", "data", "run")
	if err != nil {
		return "", err
	}
	sasl, err := authenticator(dir)
	if err != nil {
		return "", err
	}
	addr, etc := freeAddr(), filepath.Join(dir, "etc")
	return addr, errors.Join(
		openTo("postfix", filepath.Join(dir, "data")),
		fill(filepath.Join(etc, "main.cf"), postfixMain, "{dir}", dir, "{site}", s.dir, "{hop}", port(s.sink), "{sasl}", sasl),
		fill(filepath.Join(etc, "master.cf"), postfixMaster, "{port}", addr),
		c.start(filepath.Join(dir, "log"), "postfix", "-c", etc, "start"),
	)
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
