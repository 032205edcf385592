package ldap

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

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
	f := startFake(t, people)
	search, byDN := withService(t, f.url()), direct(t, f.url())
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
	for _, n := range f.requests() {
		if strings.Contains(n, "uid=*") || strings.Contains(n, "wide") {
			t.Errorf("the server received %q", n)
		}
	}
}

// A connection for searches is never bound as a user, and a connection for users is bound
// anonymously before its next use.
func TestConnectionsAreSeparated(t *testing.T) {
	f := startFake(t, people)
	cfg := withService(t, f.url())
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
	if got := f.requests(); !slices.Equal(got, want) {
		t.Errorf("requests\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestDeadConnectionsAreReplaced(t *testing.T) {
	f := startFake(t, people)
	s := open(t, withService(t, f.url()))
	for range 3 {
		if got := verify(t, s, "alice", "secret"); got != "ok alice" {
			t.Fatal(got)
		}
		f.hangUp()
	}
	if n := f.connections(); n != 6 {
		t.Errorf("%d connections, want 2 for each login", n)
	}
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	f := startFake(t, people)
	cfg := withService(t, f.url())
	cfg.IdleTime = 10 * time.Millisecond
	s := open(t, cfg)
	if got := verify(t, s, "alice", "secret"); got != "ok alice" {
		t.Fatal(got)
	}
	unbound := func() int {
		f.mu.Lock()
		defer f.mu.Unlock()
		n := 0
		for _, note := range f.log {
			if strings.HasSuffix(note, "unbind") {
				n++
			}
		}
		return n
	}
	kit.Eventually(t, "both connections to be closed", func() bool { return unbound() == 2 })
}

func TestConnectionsAreBounded(t *testing.T) {
	var mu sync.Mutex
	isOpen := map[int]bool{}
	maxOpen := 0
	f := startFake(t, func(c *fakeConn, q request) {
		mu.Lock()
		if q.tag == ldap.ApplicationUnbindRequest {
			delete(isOpen, c.number)
		} else {
			isOpen[c.number] = true
		}
		maxOpen = max(maxOpen, len(isOpen))
		mu.Unlock()
		people(c, q)
	})
	cfg := withService(t, f.url())
	cfg.Connections = 3
	s := open(t, cfg)
	var wait sync.WaitGroup
	for range 50 {
		wait.Go(func() {
			if got := verify(t, s, "alice", "secret"); got != "ok alice" {
				t.Error(got)
			}
		})
	}
	wait.Wait()
	mu.Lock()
	defer mu.Unlock()
	// A connection that is being closed may still be counted with its successor.
	if maxOpen > 6 {
		t.Errorf("%d connections at once, want 3", maxOpen)
	}
}

func TestFailOver(t *testing.T) {
	bad := map[string]func(*fakeConn, request){
		"hangs":       func(*fakeConn, request) {},
		"hangs up":    func(c *fakeConn, _ request) { c.Close() },
		"busy":        func(c *fakeConn, q request) { c.done(q, ldap.LDAPResultBusy, "") },
		"unavailable": func(c *fakeConn, q request) { c.done(q, ldap.LDAPResultUnavailable, "") },
		"garbage":     func(c *fakeConn, _ request) { c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) },
		"endless": func(c *fakeConn, _ request) {
			for line := []byte(strings.Repeat("\x30\x80", 4096)); ; {
				if _, err := c.Write(line); err != nil {
					return
				}
			}
		},
		"huge": func(c *fakeConn, _ request) {
			c.Write([]byte("\x04\x84\x7f\xff\xff\xff"))
			for page := make([]byte, 1<<16); ; {
				if _, err := c.Write(page); err != nil {
					return
				}
			}
		},
	}
	for name, script := range bad {
		t.Run(name, func(t *testing.T) {
			broken, good := startFake(t, script), startFake(t, people)
			s := open(t, withService(t, broken.url(), good.url()))
			for range 3 {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // of which the broken server gets half
				defer cancel()
				if got := outcome(s.VerifyPassword(ctx, unknownPeer, "alice", "secret")); got != "ok alice" {
					t.Fatal(got)
				}
			}
			if n := broken.connections(); n > 2 {
				t.Errorf("%d connections to the broken server", n)
			}
		})
	}
}

// If the only server gives no valid answer, the error is temporary and within the deadline.
func TestNoAnswerIsTemporary(t *testing.T) {
	scripts := map[string]func(*fakeConn, request){
		"hangs":    func(*fakeConn, request) {},
		"hangs up": func(c *fakeConn, _ request) { c.Close() },
		"busy":     func(c *fakeConn, q request) { c.done(q, ldap.LDAPResultBusy, "") },
		"referral": func(c *fakeConn, q request) { c.done(q, ldap.LDAPResultReferral, "") },
		"other id": func(c *fakeConn, q request) { q.id += 1000; c.done(q, 0, "") },
		"no code":  func(c *fakeConn, q request) { c.send(q, octets("yes")) },
		"no op":    func(c *fakeConn, q request) { c.Write([]byte("\x30\x03\x02\x01\x01")) },
		"odd code": func(c *fakeConn, q request) { c.done(q, 70000, "") },
		"negative": func(c *fakeConn, q request) { c.done(q, -1, "") },
	}
	for name, script := range scripts {
		t.Run(name, func(t *testing.T) {
			f := startFake(t, script)
			for _, cfg := range []Config{withService(t, f.url()), direct(t, f.url())} {
				ctx, cancel := context.WithTimeout(t.Context(), shortTimeout)
				defer cancel()
				if got := outcome(open(t, cfg).VerifyPassword(ctx, unknownPeer, "alice", "secret")); got != "temporary" {
					t.Error(got)
				}
			}
		})
	}
}

func TestServerComesBack(t *testing.T) {
	var down sync.Mutex
	isDown := true
	f := startFake(t, func(c *fakeConn, q request) {
		down.Lock()
		defer down.Unlock()
		if isDown {
			c.Close()
			return
		}
		people(c, q)
	})
	s := open(t, withService(t, f.url()))
	if got := verify(t, s, "alice", "secret"); got != "temporary" {
		t.Fatal(got)
	}
	down.Lock()
	isDown = false
	down.Unlock()
	if got := verify(t, s, "alice", "secret"); got != "ok alice" {
		t.Error(got)
	}
}

// A cancelled login does not make the server avoided.
func TestCancelledLogin(t *testing.T) {
	arrived := make(chan struct{}, 10)
	f := startFake(t, func(*fakeConn, request) { arrived <- struct{}{} })
	s := open(t, direct(t, f.url()))
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	_, err := s.VerifyPassword(ctx, unknownPeer, "alice", "secret")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if s.servers.servers[0].avoided(time.Now()) {
		t.Error("the server is avoided")
	}
}

func TestStartTLSIsNotOptional(t *testing.T) {
	scripts := map[string]func(*fakeConn, request){
		"refused":   func(c *fakeConn, q request) { c.done(q, ldap.LDAPResultUnavailable, "") },
		"protocol":  func(c *fakeConn, q request) { c.done(q, ldap.LDAPResultProtocolError, "unsupported") },
		"pretended": func(c *fakeConn, q request) { c.done(q, 0, "") },
	}
	for name, script := range scripts {
		t.Run(name, func(t *testing.T) {
			f := startFake(t, script)
			cfg := direct(t, f.url())
			cfg.StartTLS = true
			ctx, cancel := context.WithTimeout(t.Context(), shortTimeout)
			defer cancel()
			if got := outcome(open(t, cfg).VerifyPassword(ctx, unknownPeer, "alice", "secret")); got != "temporary" {
				t.Error(got)
			}
			for _, n := range f.requests() {
				if strings.Contains(n, "bind") {
					t.Errorf("after StartTLS failed: %s", n)
				}
			}
		})
	}
}

func TestStartTLSBeyondLoopback(t *testing.T) {
	cfg := direct(t, "ldap://ldap.example.org", "ldap://127.0.0.1", "ldaps://ldap.example.org", "ldapi:///")
	for i, want := range []bool{true, false, false, false} {
		if got := open(t, cfg).servers.servers[i].dialer.startTLS; got != want {
			t.Errorf("%s: %v", cfg.ServerHost[i], got)
		}
	}
	cfg.StartTLS = true
	for i, want := range []bool{true, true, false, false} {
		if got := open(t, cfg).servers.servers[i].dialer.startTLS; got != want {
			t.Errorf("%s with start_tls: %v", cfg.ServerHost[i], got)
		}
	}
}

func TestWrongServiceAccountIsTemporary(t *testing.T) {
	f := startFake(t, people)
	cfg := withService(t, f.url())
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

func TestNewRefuses(t *testing.T) {
	tests := map[string]func(Config) Config{
		"bind_password_file": func(cfg Config) Config { cfg.BindPasswordFile += "-missing"; return cfg },
		"ca_file":            func(cfg Config) Config { cfg.CAFile = cfg.BindPasswordFile; return cfg },
	}
	for text, change := range tests {
		if _, err := New(change(withService(t, "ldap://localhost")), nil); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestCheck(t *testing.T) {
	f, gone := startFake(t, people), "ldap://"+kit.Addr(t)
	s := open(t, withService(t, f.url()))
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
	s = open(t, withService(t, f.url(), gone, "ldapi:///nowhere/ldapi"))
	err := s.Check(t.Context())
	if err == nil || strings.Contains(err.Error(), f.url()) || !strings.Contains(err.Error(), gone) || !strings.Contains(err.Error(), "/nowhere does not exist") {
		t.Errorf("%v", err)
	}
}
