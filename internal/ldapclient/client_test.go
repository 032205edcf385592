package ldapclient

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	"postern/internal/ldapclient/ldaptest"
	"postern/internal/semaphore"
	"postern/test/kit"
)

// withService returns a configuration with a service account.
func withService(t *testing.T, servers ...string) Config {
	t.Helper()
	cfg := Defaults()
	cfg.ServerHost = urls(t, servers...)
	set(t, &cfg.BindDN, "cn=service")
	cfg.BindPasswordFile = filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(cfg.BindPasswordFile, []byte("service\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// eventLog records the events of a client.
type eventLog struct {
	mu  sync.Mutex
	all []string
}

func (l *eventLog) add(event string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, event)
}

func (l *eventLog) ServerDown(server string, _ error) { l.add("down " + server) }
func (l *eventLog) ServerUp(server string)            { l.add("up " + server) }

// open returns a client that is closed at the end of the test.
func open(t *testing.T, cfg Config) *Client {
	t.Helper()
	c, err := New(cfg, new(eventLog))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// login searches as the service account and binds as the entry of alice, so it needs a
// connection for each purpose.
func login(ctx context.Context, c *Client) error {
	found, err := c.Search(ctx, semaphore.Turn{}, Query{Base: "dc=example,dc=org", Scope: ScopeSub, Filter: "(&(objectClass=person)(uid=alice))", Limit: 2})
	if err != nil {
		return err
	}
	if len(found) != 1 || found[0].DN != "uid=alice" {
		return fmt.Errorf("found %v", found)
	}
	return bind(ctx, c)
}

func bind(ctx context.Context, c *Client) error {
	return c.Do(ctx, ForBinds, semaphore.Turn{}, func(conn *Conn) error {
		_, err := conn.Bind("uid=alice", "secret")
		return err
	})
}

const shortTimeout = 200 * time.Millisecond

func TestMain(m *testing.M) { os.Exit(kit.Main(m)) }

func TestSearch(t *testing.T) {
	f := ldaptest.Start(t, ldaptest.People)
	c := open(t, withService(t, f.URL()))
	for _, test := range []struct {
		name  string
		limit int
		want  string
	}{
		{"alice", 2, "uid=alice [alice@example.org al@example.org]"},
		{"bob", 2, "uid=bob []"},
		{"mallory", 2, ""},
		{"twice", 2, "uid=one [] uid=two []"},
		{"twice", 3, "make query_filter narrower"}, // the server returns fewer than it has
	} {
		found, err := c.Search(t.Context(), semaphore.Turn{}, Query{
			Base: "dc=example,dc=org", Filter: "(&(objectClass=person)(uid=" + test.name + "))", Attributes: []string{"mail"}, Limit: test.limit})
		var got []string
		for _, e := range found {
			got = append(got, fmt.Sprint(e.DN, " ", e.Values("MAIL")))
		}
		_, isConfig := errors.AsType[*ConfigError](err)
		switch {
		case err == nil && strings.Join(got, " ") != test.want:
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		case err != nil && (!isConfig || !strings.Contains(err.Error(), test.want) || test.want == ""):
			t.Errorf("%s: %v, want %s", test.name, err, test.want)
		}
	}
}

func TestDeadConnectionsAreReplaced(t *testing.T) {
	f := ldaptest.Start(t, ldaptest.People)
	c := open(t, withService(t, f.URL()))
	for range 3 {
		if err := login(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		f.HangUp()
	}
	if n := f.Connections(); n != 6 {
		t.Errorf("%d connections, want 2 for each login", n)
	}
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	f := ldaptest.Start(t, ldaptest.People)
	cfg := withService(t, f.URL())
	cfg.IdleTime = 10 * time.Millisecond
	c := open(t, cfg)
	if err := login(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	kit.Eventually(t, "both connections to be closed", func() bool { return f.Unbinds() == 2 })
}

func TestConnectionsAreBounded(t *testing.T) {
	var mu sync.Mutex
	isOpen := map[int]bool{}
	maxOpen := 0
	f := ldaptest.Start(t, func(c *ldaptest.Conn, q ldaptest.Request) {
		mu.Lock()
		if q.Tag == ldap.ApplicationUnbindRequest {
			delete(isOpen, c.Number)
		} else {
			isOpen[c.Number] = true
		}
		maxOpen = max(maxOpen, len(isOpen))
		mu.Unlock()
		ldaptest.People(c, q)
	})
	cfg := withService(t, f.URL())
	cfg.Connections = 3
	c := open(t, cfg)
	var wait sync.WaitGroup
	for range 50 {
		wait.Go(func() {
			if err := login(t.Context(), c); err != nil {
				t.Error(err)
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

// A caller cannot use all connections, so that others do not wait for its slow requests.
func TestConnectionsHaveShares(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var waiting atomic.Int32
	f := ldaptest.Start(t, func(c *ldaptest.Conn, q ldaptest.Request) {
		if q.Tag == ldap.ApplicationBindRequest {
			waiting.Add(1)
			<-ctx.Done()
		}
	})
	cfg := withService(t, f.URL())
	cfg.Connections = 4
	c := open(t, cfg)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	slow := func(n int32, holders ...string) {
		all.Go(func() {
			c.Do(ctx, ForBinds, semaphore.Turn{Holders: holders}, func(conn *Conn) error {
				_, err := conn.Bind("cn=x", "secret")
				return err
			})
		})
		kit.Eventually(t, "the server has the request", func() bool { return waiting.Load() == n })
	}
	slow(1, "eve", "bob")
	short, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer stop()
	for _, name := range []string{"eve", "bob"} {
		if err := c.servers[0].pool.acquire(short, semaphore.Turn{Holders: []string{name}}); err == nil {
			t.Errorf("%s has two of four connections", name)
		}
	}
	slow(2, "carol")
	slow(3, "dave")
}

func TestFailOver(t *testing.T) {
	bad := map[string]func(*ldaptest.Conn, ldaptest.Request){
		"hangs":       func(*ldaptest.Conn, ldaptest.Request) {},
		"hangs up":    func(c *ldaptest.Conn, _ ldaptest.Request) { c.Close() },
		"busy":        func(c *ldaptest.Conn, q ldaptest.Request) { c.Done(q, ldap.LDAPResultBusy, "") },
		"unavailable": func(c *ldaptest.Conn, q ldaptest.Request) { c.Done(q, ldap.LDAPResultUnavailable, "") },
		"garbage":     func(c *ldaptest.Conn, _ ldaptest.Request) { c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) },
		"endless": func(c *ldaptest.Conn, _ ldaptest.Request) {
			for line := []byte(strings.Repeat("\x30\x80", 4096)); ; {
				if _, err := c.Write(line); err != nil {
					return
				}
			}
		},
		"huge": func(c *ldaptest.Conn, _ ldaptest.Request) {
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
			broken, good := ldaptest.Start(t, script), ldaptest.Start(t, ldaptest.People)
			c := open(t, withService(t, broken.URL(), good.URL()))
			for range 3 {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // of which the broken server gets half
				defer cancel()
				if err := login(ctx, c); err != nil {
					t.Fatal(err)
				}
			}
			if n := broken.Connections(); n > 2 {
				t.Errorf("%d connections to the broken server", n)
			}
		})
	}
}

func TestServerComesBack(t *testing.T) {
	var down sync.Mutex
	isDown := true
	f := ldaptest.Start(t, func(c *ldaptest.Conn, q ldaptest.Request) {
		down.Lock()
		defer down.Unlock()
		if isDown {
			c.Close()
			return
		}
		ldaptest.People(c, q)
	})
	c := open(t, withService(t, f.URL()))
	if err := login(t.Context(), c); err == nil {
		t.Fatal("a login with a server that is down")
	}
	down.Lock()
	isDown = false
	down.Unlock()
	if err := login(t.Context(), c); err != nil {
		t.Error(err)
	}
	want := []string{"down " + f.URL(), "up " + f.URL()}
	if got := c.events.(*eventLog).all; !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
}

// A cancelled request does not make the server avoided.
func TestCancelledRequest(t *testing.T) {
	arrived := make(chan struct{}, 10)
	f := ldaptest.Start(t, func(*ldaptest.Conn, ldaptest.Request) { arrived <- struct{}{} })
	c := open(t, withService(t, f.URL()))
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	err := bind(ctx, c)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if c.servers[0].avoided(time.Now()) {
		t.Error("the server is avoided")
	}
}

func TestStartTLSIsNotOptional(t *testing.T) {
	scripts := map[string]func(*ldaptest.Conn, ldaptest.Request){
		"refused":   func(c *ldaptest.Conn, q ldaptest.Request) { c.Done(q, ldap.LDAPResultUnavailable, "") },
		"protocol":  func(c *ldaptest.Conn, q ldaptest.Request) { c.Done(q, ldap.LDAPResultProtocolError, "unsupported") },
		"pretended": func(c *ldaptest.Conn, q ldaptest.Request) { c.Done(q, 0, "") },
	}
	for name, script := range scripts {
		t.Run(name, func(t *testing.T) {
			f := ldaptest.Start(t, script)
			cfg := withService(t, f.URL())
			cfg.StartTLS = true
			for _, op := range []func(context.Context, *Client) error{bind, login} {
				ctx, cancel := context.WithTimeout(t.Context(), shortTimeout)
				defer cancel()
				if err := op(ctx, open(t, cfg)); err == nil {
					t.Error("a bind without StartTLS")
				}
			}
			for _, n := range f.Requests() {
				if strings.Contains(n, "bind") {
					t.Errorf("after StartTLS failed: %s", n)
				}
			}
		})
	}
}

func TestStartTLSBeyondLoopback(t *testing.T) {
	cfg := withService(t, "ldap://ldap.example.org", "ldap://127.0.0.1", "ldaps://ldap.example.org", "ldapi:///")
	for i, want := range []bool{true, false, false, false} {
		if got := open(t, cfg).servers[i].dialer.startTLS; got != want {
			t.Errorf("%s: %v", cfg.ServerHost[i], got)
		}
	}
	cfg.StartTLS = true
	for i, want := range []bool{true, true, false, false} {
		if got := open(t, cfg).servers[i].dialer.startTLS; got != want {
			t.Errorf("%s with start_tls: %v", cfg.ServerHost[i], got)
		}
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
	base := DN{"dc=example,dc=org"}
	f, gone := ldaptest.Start(t, ldaptest.People), "ldap://"+kit.Addr(t)
	c := open(t, withService(t, f.URL()))
	if err := c.Check(t.Context(), base); err != nil {
		t.Error(err)
	}
	c = open(t, withService(t, f.URL(), gone, "ldapi:///nowhere/ldapi"))
	err := c.Check(t.Context(), base)
	if err == nil || strings.Contains(err.Error(), f.URL()) || !strings.Contains(err.Error(), gone) || !strings.Contains(err.Error(), "/nowhere does not exist") {
		t.Errorf("%v", err)
	}
}

func TestClean(t *testing.T) {
	if got := Clean("a\x00\x1b[1mb\r\nc" + strings.Repeat("ä", 1000)); strings.ContainsAny(got, "\x00\x1b\r\n") || len(got) > maxText+3 {
		t.Errorf("%q", got)
	}
}
