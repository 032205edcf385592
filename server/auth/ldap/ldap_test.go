package ldap

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	"postern/internal/ldapclient/ldaptest"
	"postern/server/auth"
	"postern/test/kit"
)

// withService returns a configuration with a search by a service account.
func withService(t *testing.T, servers ...string) Config {
	t.Helper()
	cfg := searching(t)
	cfg.ServerHost = urls(t, servers...)
	set(t, &cfg.BindDN, "cn=service")
	cfg.BindPasswordFile = filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(cfg.BindPasswordFile, []byte("service\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// direct returns a configuration with user_dn.
func direct(t *testing.T, servers ...string) Config {
	t.Helper()
	cfg := Defaults()
	set(t, &cfg.UserDN, "uid={user}")
	cfg.ServerHost = urls(t, servers...)
	return cfg
}

// outcome returns "ok" and the user, the kind of the failure, or "temporary".
func outcome(id auth.Identity, err error) string {
	f, failed := errors.AsType[*auth.Failure](err)
	switch {
	case err == nil:
		return "ok " + id.User
	case failed:
		return f.Kind.String()
	}
	return "temporary"
}

func verify(t *testing.T, s *Store, login, password string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	id, err := s.VerifyPassword(ctx, unknownPeer, login, password)
	if err != nil && (id != auth.Identity{}) {
		t.Errorf("an identity together with %v", err)
	}
	return outcome(id, err)
}

func TestVerifyPassword(t *testing.T) {
	f := ldaptest.Start(t, ldaptest.People)
	search, byDN := withService(t, f.URL()), direct(t, f.URL())
	withAttribute := func(cfg Config, name string) Config { cfg.UserAttribute = name; return cfg }
	withDisabled := func(cfg Config, filter string) Config { set(t, &cfg.DisabledFilter, filter); return cfg }
	tests := []struct {
		name            string
		cfg             Config
		login, password string
		want            string
	}{
		{"search", search, "alice", "secret", "ok alice"},
		{"search, wrong", search, "alice", "wrong", "wrong password"},
		{"search, unknown", search, "nobody", "secret", "no such user"},
		{"search, several", search, "twice", "secret", "temporary"},
		{"search, empty password", search, "alice", "", "wrong password"},
		{"search, another spelling", search, "ALICE", "secret", "ok alice"},
		{"search, attribute", withAttribute(search, "uid"), "ALICE", "secret", "ok alice"},
		{"search, two values", withAttribute(search, "mail"), "alice", "secret", "temporary"},
		{"search, no value", withAttribute(search, "cn"), "alice", "secret", "temporary"},
		{"search, disabled", withDisabled(search, "(gone=TRUE)"), "bob", "secret", "account disabled"},
		{"search, disabled, wrong", withDisabled(search, "(gone=TRUE)"), "bob", "wrong", "wrong password"},
		{"search, enabled", withDisabled(search, "(gone=TRUE)"), "alice", "secret", "ok alice"},
		{"search, hidden", withDisabled(search, "(hidden=TRUE)"), "alice", "secret", "temporary"},
		{"by name", byDN, "alice", "secret", "ok alice"},
		{"by name, wrong", byDN, "alice", "wrong", "refused"},
		{"by name, empty password", byDN, "alice", "", "wrong password"},
		{"by name, attribute", withAttribute(byDN, "uid"), "alice", "secret", "ok alice"},
		{"by name, disabled", withDisabled(byDN, "(gone=TRUE)"), "bob", "secret", "account disabled"},
		{"by name, disabled, wrong", withDisabled(byDN, "(gone=TRUE)"), "bob", "wrong", "refused"},
		{"no login", search, "", "secret", "no such user"},
		{"too long", search, strings.Repeat("a", 1<<20), "secret", "no such user"},
		{"long password", search, "alice", strings.Repeat("x", maxPassword), "wrong password"},
		{"too long a password", search, "alice", strings.Repeat("x", maxPassword+1), "refused"},
		{"too long a password, unknown user", search, "mallory", strings.Repeat("x", maxPassword+1), "refused"},
		{"too long a password, by name", byDN, "alice", strings.Repeat("x", 1<<20), "refused"},
		{"NUL", search, "alice\x00", "secret", "no such user"},
		{"newline", search, "alice\n", "secret", "no such user"},
		{"not UTF-8", search, "alice\xff", "secret", "no such user"},
		{"wide letters", search, "ａlice", "secret", "no such user"},
		{"wide letters, attribute", withAttribute(search, "uid"), "ａlice", "secret", "no such user"},
		{"blank", search, " alice", "secret", "no such user"},
		{"filter", search, "*)(uid=*", "secret", "no such user"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := verify(t, open(t, tt.cfg), tt.login, tt.password); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
	for _, n := range f.Requests() {
		if strings.Contains(n, "uid=*") || strings.Contains(n, "wide") {
			t.Errorf("the server received %q", n)
		}
	}
}

// A connection for searches is never bound as a user, and a connection for users is bound
// anonymously before its next use.
func TestConnectionsAreSeparated(t *testing.T) {
	f := ldaptest.Start(t, ldaptest.People)
	cfg := withService(t, f.URL())
	set(t, &cfg.DisabledFilter, "(gone=TRUE)")
	s := open(t, cfg)
	for _, password := range []string{"secret", "wrong", "secret"} {
		verify(t, s, "alice", password)
	}
	want := []string{
		"1: bind cn=service",
		"1: search (&(objectClass=person)(uid=alice))",
		"2: bind uid=alice",
		"2: bind",
		"1: search (!(gone=TRUE))",
		"1: search (&(objectClass=person)(uid=alice))",
		"2: bind uid=alice", // refused, and so anonymous
		"1: search (&(objectClass=person)(uid=alice))",
		"2: bind uid=alice",
		"2: bind",
		"1: search (!(gone=TRUE))",
	}
	if got := f.Requests(); !slices.Equal(got, want) {
		t.Errorf("requests\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// A failure of the login is an answer, also if the server has sent no error: no other server is
// asked.
func TestDisabledAccountIsAnAnswer(t *testing.T) {
	f, other := ldaptest.Start(t, ldaptest.People), ldaptest.Start(t, ldaptest.People)
	for _, cfg := range []Config{withService(t, f.URL(), other.URL()), direct(t, f.URL(), other.URL())} {
		set(t, &cfg.DisabledFilter, "(gone=TRUE)")
		if got := verify(t, open(t, cfg), "bob", "secret"); got != "account disabled" {
			t.Error(got)
		}
	}
	if n := other.Connections(); n != 0 {
		t.Errorf("%d connections to the other server", n)
	}
}

// If the only server gives no valid answer, the error is temporary and within the deadline.
func TestNoAnswerIsTemporary(t *testing.T) {
	scripts := map[string]func(*ldaptest.Conn, ldaptest.Request){
		"hangs":    func(*ldaptest.Conn, ldaptest.Request) {},
		"hangs up": func(c *ldaptest.Conn, _ ldaptest.Request) { c.Close() },
		"busy":     func(c *ldaptest.Conn, q ldaptest.Request) { c.Done(q, ldap.LDAPResultBusy, "") },
		"referral": func(c *ldaptest.Conn, q ldaptest.Request) { c.Done(q, ldap.LDAPResultReferral, "") },
		"other id": func(c *ldaptest.Conn, q ldaptest.Request) { q.ID += 1000; c.Done(q, 0, "") },
		"no code":  func(c *ldaptest.Conn, q ldaptest.Request) { c.Send(q, ldaptest.Octets("yes")) },
		"no op":    func(c *ldaptest.Conn, q ldaptest.Request) { c.Write([]byte("\x30\x03\x02\x01\x01")) },
		"odd code": func(c *ldaptest.Conn, q ldaptest.Request) { c.Done(q, 70000, "") },
		"negative": func(c *ldaptest.Conn, q ldaptest.Request) { c.Done(q, -1, "") },
	}
	for name, script := range scripts {
		t.Run(name, func(t *testing.T) {
			f := ldaptest.Start(t, script)
			for _, cfg := range []Config{withService(t, f.URL()), direct(t, f.URL())} {
				ctx, cancel := context.WithTimeout(t.Context(), shortTimeout)
				defer cancel()
				if got := outcome(open(t, cfg).VerifyPassword(ctx, unknownPeer, "alice", "secret")); got != "temporary" {
					t.Error(got)
				}
			}
		})
	}
}

func TestWrongServiceAccountIsTemporary(t *testing.T) {
	f := ldaptest.Start(t, ldaptest.People)
	cfg := withService(t, f.URL())
	if err := os.WriteFile(cfg.BindPasswordFile, []byte("topsecret"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, cfg)
	_, err := s.VerifyPassword(t.Context(), unknownPeer, "alice", "secret")
	if outcome(auth.Identity{}, err) != "temporary" || strings.Contains(err.Error(), "topsecret") {
		t.Errorf("%v", err)
	}
	if err := s.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "bind_password_file") {
		t.Errorf("check: %v", err)
	}
}

// open returns a store that is closed at the end of the test.
func open(t *testing.T, cfg Config) *Store {
	t.Helper()
	s, err := New(cfg, auth.NewLog(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// unknownPeer is a client that has not logged in before.
var unknownPeer = &auth.Peer{TLS: &tls.ConnectionState{}}

const shortTimeout = 200 * time.Millisecond

func TestMain(m *testing.M) { os.Exit(kit.Main(m)) }
