package test

import (
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"postern/test/kit"
)

// An outsider is where users are kept: the table [[auth.stores]], accounts, and
// how to take the server away and bring it back.
type outsider struct {
	stores     string
	user       string
	password   string
	closed     string   // an account that may not log in, with the same password
	mechanisms []string // for gsasl, beside PLAIN and LOGIN
	down, up   func()   // nil: there is no server
}

// outsiders is the table of them. To add a kind of store, add its line.
var outsiders = map[string]func(*testing.T) outsider{
	"userfile":  userfileOutside,
	"saslauthd": saslauthdOutside,
	"pam":       pamOutside,
	"dovecot":   dovecotOutside,
	"ldap":      ldapOutside,
	"postgres":  func(t *testing.T) outsider { return sqlOutside(t, startPostgres(t)) },
	"mysql":     func(t *testing.T) outsider { return sqlOutside(t, startMariaDB(t)) },
	"sqlite":    func(t *testing.T) outsider { return sqlOutside(t, sharedSQLite(t)) },
}

// exempt is for tests whose logins fail on purpose.
const exempt = `penalty_exempt = ["127.0.0.0/8"]`

// Every kind of store behind the whole server: who gets in and who does not, what
// fail2ban makes of it, and what happens while the store is away.
func TestStores(t *testing.T) {
	t.Parallel()
	peer(t, "fail2ban-regex", "gsasl")
	for name, outside := range outsiders {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := outside(t)
			p := startPostern(t, posternOptions{
				NextHop:  "smtp://" + startSink(t).Addr,
				Stores:   o.stores,
				Sections: map[string]string{"auth": exempt},
			})
			p.wantVerdicts(t, o)
			p.wantGsasl(t, o)
			if o.down != nil {
				p.wantOutage(t, o)
			}
		})
	}
}

// wantVerdicts logs in well and badly, each time from an address of its own.
func (p *postern) wantVerdicts(t *testing.T, o outsider) {
	t.Helper()
	var refused []string
	for i, tt := range []struct {
		user, password string
		code           int
	}{
		{o.user, o.password, 235},
		{o.user, "wrong", 535},
		{"nobody@example.org", o.password, 535},
		{o.closed, o.password, 535},
		{o.closed, "wrong", 535},
		{"*)(uid=*", o.password, 535},
		{"a' or 1=1--", o.password, 535},
		{o.user, o.password, 235},
	} {
		from := loopbackClient(i)
		p.wantLogin(t, from, tt.user, tt.password, tt.code)
		if tt.code == 535 {
			refused = append(refused, from.IP.String())
		}
	}
	if got := banned(t, p.file("log")); !slices.Equal(got, refused) {
		t.Errorf("fail2ban found %v, want %v", got, refused)
	}
}

// wantLogin connects and wants one reply to AUTH PLAIN.
func (p *postern) wantLogin(t *testing.T, from *net.TCPAddr, user, password string, code int) {
	t.Helper()
	if r := p.tryLogin(t, from, user, password); r.Code != code {
		t.Errorf("%s, %s: %v, want %d", user, password, r, code)
	}
}

func (p *postern) tryLogin(t *testing.T, from *net.TCPAddr, user, password string) kit.Reply {
	t.Helper()
	c, err := p.connect(startTLS, from)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r, err := c.Ask("AUTH PLAIN " + kit.Plain(user, password))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// wantGsasl has GNU SASL log in by each mechanism, and fail to.
func (p *postern) wantGsasl(t *testing.T, o outsider) {
	t.Helper()
	for _, mech := range append([]string{"PLAIN", "LOGIN"}, o.mechanisms...) {
		if out, err := p.gsasl(t, mech, o.user, o.password, "--no-cb"); err != nil {
			t.Errorf("gsasl %s: %v\n%s", mech, err, out)
		}
		for user, password := range map[string]string{o.user: "wrong", "nobody@example.org": o.password} {
			out, err := p.gsasl(t, mech, user, password, "--no-cb")
			if err == nil || !strings.Contains(out, "\n535 5.7.8 ") {
				t.Errorf("gsasl %s, %s, %s: %v\n%s", mech, user, password, err, out)
			}
		}
	}
}

// gsasl is the client of GNU SASL. It returns the conversation.
func (p *postern) gsasl(t *testing.T, mech, user, password string, flags ...string) (string, error) {
	t.Helper()
	cmd := command(t, "gsasl", append([]string{
		"--smtp", "--connect", fmt.Sprintf("localhost:%d", p.ports[startTLS]), "--starttls", "--x509-ca-file", p.ca.File,
		"--verbose", "--mechanism", mech, "--realm", "", "--authentication-id", user, "--password", password,
	}, flags...)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// wantOutage takes the server away twice. There are always answers, and none of
// them says that a password is wrong.
func (p *postern) wantOutage(t *testing.T, o outsider) {
	t.Helper()
	for range 2 {
		o.down()
		p.wantLogin(t, nil, o.user, o.password, 454)
		p.wantLogin(t, nil, o.user, "wrong", 454)
		p.wantLogin(t, nil, "nobody@example.org", o.password, 454)
		status, said := p.authTest(t, o.user, o.password)
		if status != 75 || !strings.Contains(said, "no store could answer") {
			t.Errorf("auth test while the store is away: %d\n%s", status, said)
		}
		o.up()
		kit.Eventually(t, "a login", func() bool { return p.tryLogin(t, nil, o.user, o.password).Code == 235 })
		p.wantLogin(t, nil, o.user, "wrong", 535)
	}
}

// authTest is "postern auth test". It returns the exit status and the output, in
// which the password must not be.
func (p *postern) authTest(t *testing.T, user, password string) (int, string) {
	t.Helper()
	cmd := p.command(t, "auth", "test", "--config", p.file("config.toml"), "-u", user, "-p", "-")
	cmd.Stdin = strings.NewReader(password)
	out, err := cmd.CombinedOutput()
	if _, ended := err.(*exec.ExitError); err != nil && !ended {
		t.Fatal(err)
	}
	if strings.Contains(string(out), password) {
		t.Errorf("auth test prints the password:\n%s", out)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}
