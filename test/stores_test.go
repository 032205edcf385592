package test

import (
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"postern/test/kit"
)

// A storeCase is one kind of store: its table [[auth.stores]], accounts, and how to stop
// and start its server.
type storeCase struct {
	stores     string
	user       string
	password   string
	closed     string   // an account that may not log in, with the same password
	mechanisms []string // for gsasl, in addition to PLAIN and LOGIN
	down, up   func()   // nil without a server
}

// storeCases has all kinds of store. To add one, add its line.
var storeCases = map[string]func(*testing.T) storeCase{
	"userfile":  userfileCase,
	"saslauthd": saslauthdCase,
	"pam":       pamCase,
	"dovecot":   dovecotCase,
	"ldap":      ldapCase,
	"postgres":  func(t *testing.T) storeCase { return sqlCase(t, startPostgres(t)) },
	"mysql":     func(t *testing.T) storeCase { return sqlCase(t, startMariaDB(t)) },
	"sqlite":    func(t *testing.T) storeCase { return sqlCase(t, sharedSQLite(t)) },
}

// exempt switches off the penalties, for tests whose logins fail on purpose.
const exempt = `penalty_exempt = ["127.0.0.0/8"]`

// Each kind of store with the whole server: logins that succeed and fail, the addresses
// that fail2ban finds, and logins while the server of the store is down.
func TestStores(t *testing.T) {
	t.Parallel()
	peer(t, "fail2ban-regex", "gsasl")
	for name, newCase := range storeCases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newCase(t)
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

// wantVerdicts tries logins that succeed and fail, each from another address.
func (p *postern) wantVerdicts(t *testing.T, o storeCase) {
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

// wantLogin sends AUTH PLAIN on a new connection and checks the reply.
func (p *postern) wantLogin(t *testing.T, from *net.TCPAddr, user, password string, code int) {
	t.Helper()
	if r := p.tryLogin(t, from, user, password); r.Code != code {
		t.Errorf("%s, %s: got %v, want %d", user, password, r, code)
	}
}

func (p *postern) tryLogin(t *testing.T, from *net.TCPAddr, user, password string) kit.Reply {
	t.Helper()
	c, err := p.connect(startTLS, from)
	kit.Must(t, err)
	defer c.Close()
	r, err := c.Ask("AUTH PLAIN " + kit.Plain(user, password))
	kit.Must(t, err)
	return r
}

// wantGsasl logs in with GNU SASL by each mechanism, with right and wrong passwords.
func (p *postern) wantGsasl(t *testing.T, o storeCase) {
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

// gsasl runs the client of GNU SASL and returns the session.
func (p *postern) gsasl(t *testing.T, mech, user, password string, flags ...string) (string, error) {
	t.Helper()
	cmd := command(t, "gsasl", append([]string{
		"--smtp", "--connect", fmt.Sprintf("localhost:%d", p.ports[startTLS]), "--starttls", "--x509-ca-file", p.ca.File,
		"--verbose", "--mechanism", mech, "--realm", "", "--authentication-id", user, "--password", password,
	}, flags...)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// wantOutage stops the server twice. Every login gets a reply, and none gets 535.
func (p *postern) wantOutage(t *testing.T, o storeCase) {
	t.Helper()
	for range 2 {
		o.down()
		p.wantLogin(t, nil, o.user, o.password, 454)
		p.wantLogin(t, nil, o.user, "wrong", 454)
		p.wantLogin(t, nil, "nobody@example.org", o.password, 454)
		status, output := p.authTest(t, o.user, o.password)
		if status != 75 || !strings.Contains(output, "no store could answer") {
			t.Errorf("auth test while the store is down: status %d\n%s", status, output)
		}
		o.up()
		kit.Eventually(t, "a login", func() bool { return p.tryLogin(t, nil, o.user, o.password).Code == 235 })
		p.wantLogin(t, nil, o.user, "wrong", 535)
	}
}

// authTest runs "postern auth test" and returns its exit status and its output, which
// must not contain the password.
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

// Two stores, a user file and an LDAP directory: which of them is asked, and which decides.
func TestStoreList(t *testing.T) {
	t.Parallel()
	s := startSlapd(t)
	p := startPostern(t, posternOptions{
		NextHop:  "smtp://" + startSink(t).Addr,
		Sections: map[string]string{"auth": exempt + "\nrealm = \"example.org\""},
		Stores:   userTable(t, "") + s.table(t, "login = \"{local}\"\ntimeout = \"10s\""),
	})
	for _, tt := range []struct {
		user, password string
		code           int
	}{
		{"alice@example.org", password, 235},
		{"alice", password, 235},
		{"alice", "secret", 535}, // right in the directory, but the user file decides
		{"carol", "secret", 235},
		{"carol@example.org", "secret", 235},
		{"carol@example.net", "secret", 535}, // another user
		{"carol", password, 535},
		{"bob", "secret", 535},
		{"nobody", "secret", 535},
	} {
		p.wantLogin(t, nil, tt.user, tt.password, tt.code)
	}
	p.wantTrace(t, "alice", password, 0, `store userfile was asked for "alice@example.org": yes`)
	p.wantTrace(t, "carol", "secret", 0,
		`store userfile was asked for "carol@example.org": no such user`, `store ldap was asked for "carol": yes`)
	p.wantTrace(t, "carol@example.net", "secret", 1,
		`store userfile was asked for "carol@example.net": no such user`, "store ldap was not asked: ")
	p.wantTrace(t, "carol", "mistaken", 1, `store ldap was asked for "carol": wrong password`)
	p.wantTrace(t, "bob", "secret", 1, "account disabled")

	s.freeze(t)
	p.wantLogin(t, nil, "carol", "secret", 454)
	p.wantLogin(t, nil, "alice", password, 235)
	s.signal(t, syscall.SIGCONT)
	p.wantLogin(t, nil, "carol", "secret", 235)
	s.stop()
	p.wantLogin(t, nil, "carol", "secret", 454)
	p.wantLogin(t, nil, "nobody", "secret", 454)
	p.wantLogin(t, nil, "alice", password, 235)
	p.wantLogin(t, nil, "alice", "wrong", 535)
	p.wantTrace(t, "carol", "secret", 75, s.port)
}

// With on_failure = "next" the password of either store is accepted, with "stop" only that
// of the first.
func TestStoreListOnFailure(t *testing.T) {
	t.Parallel()
	s := startSlapd(t)
	for onFailure, code := range map[string]int{"next": 235, "stop": 535} {
		t.Run(onFailure, func(t *testing.T) {
			p := startPostern(t, posternOptions{
				NextHop:  "smtp://" + startSink(t).Addr,
				Sections: map[string]string{"auth": exempt},
				Stores:   userTable(t, fmt.Sprintf("on_failure = %q", onFailure)) + s.table(t, "login = \"{local}\""),
			})
			p.wantLogin(t, nil, "alice@example.org", password, 235)
			p.wantLogin(t, nil, "alice@example.org", "secret", code)
			p.wantLogin(t, nil, "carol@example.org", "secret", code)
			p.wantLogin(t, nil, "alice@example.org", "wrong", 535)
		})
	}
}

// userTable returns a table [[auth.stores]] for a user file with one user, and more lines.
func userTable(t *testing.T, more string) string {
	t.Helper()
	path := filepath.Join(kit.OpenDir(t), "users")
	write(t, path, "alice@example.org:"+hash+"\n")
	return fmt.Sprintf("[[auth.stores]]\nkind = \"userfile\"\npath = %q\n%s\n", path, more)
}

// wantTrace checks the status of "postern auth test" and that its output contains words.
func (p *postern) wantTrace(t *testing.T, user, password string, status int, words ...string) {
	t.Helper()
	if got, output := p.authTest(t, user, password); got != status || !containsAll(output, words) {
		t.Errorf("auth test for %s: status %d, want %d and %q in\n%s", user, got, status, words, output)
	}
}

// The cache of a real saslauthd: the password of another user or realm is never accepted,
// and entries expire and are removed as documented.
func TestStoreCache(t *testing.T) {
	t.Parallel()
	peer(t, "root", "saslpasswd2")
	db := filepath.Join(kit.OpenDir(t), "sasldb2")
	for user, password := range map[string]string{"alice": "sesame", "bob": "wonderland"} {
		setSasldb(t, db, user, "example.org", password)
	}
	setSasldb(t, db, "alice", "example.com", "abracadabra")
	d := startSaslauthd(t, fmt.Sprintf("mount --bind %s /etc/sasldb2", db), "-a", "sasldb", "-n", "4")
	const store = "[[auth.stores]]\nkind = \"saslauthd\"\nname = %q\npath = %q\nrealm = %q\n" +
		"cache.ttl = %q\ncache.stale_while_down = \"1h\"\n"
	p := startPostern(t, posternOptions{
		NextHop:  "smtp://" + startSink(t).Addr,
		Sections: map[string]string{"auth": exempt},
		Stores: fmt.Sprintf(store, "org", d.socket(), "example.org", "30m") +
			fmt.Sprintf(store, "com", d.socket(), "example.com", "30m"),
	})
	want := func(user, password string, code int) {
		t.Helper()
		p.wantLogin(t, nil, user, password, code)
	}
	for range 2 { // the second time from the cache
		want("alice", "sesame", 235)
		want("alice", "abracadabra", 235)
		want("bob", "wonderland", 235)
		want("bob", "sesame", 535)
		want("alice", "wonderland", 535)
		want("bob", "abracadabra", 535)
		want("Alice", "sesame", 535)
	}
	want("alice", "sesame", 235)
	setSasldb(t, db, "alice", "example.org", "simsalabim")
	want("alice", "sesame", 235) // until the TTL ends
	want("alice", "simsalabim", 235)
	want("alice", "mistaken", 535)
	want("alice", "sesame", 535) // a refusal removes the entry

	want("alice", "simsalabim", 235)
	d.stop(t)
	want("alice", "simsalabim", 235)
	want("alice", "sesame", 454)
	want("bob", "simsalabim", 454)
	d.start(t)
	kit.Eventually(t, "a login", func() bool { return p.tryLogin(t, nil, "bob", "wonderland").Code == 235 })
	want("bob", "simsalabim", 535)
}
