package pam

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/server/auth"
	"postern/server/auth/saslauthd"
	"postern/test/kit"
)

// A running helper has a socket and scripted children.
type running struct {
	path string
	stop func()
	log  *kit.LogBuffer
}

func startScripted(t *testing.T, edit func(*HelperConfig)) *running {
	t.Helper()
	r := &running{path: filepath.Join(t.TempDir(), "mux"), log: new(kit.LogBuffer)}
	log := r.log.Logger()
	cfg := HelperConfig{Services: []string{"smtp"}, Processes: 8, Timeout: time.Minute, Child: scripted, Log: log}
	if edit != nil {
		edit(&cfg)
	}
	l, err := Listen(SocketConfig{Path: r.path, Mode: 0o600, GID: os.Getegid(), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- NewHelper(cfg).Serve(ctx, l) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// ask sends a request on a new connection.
func (r *running) ask(t *testing.T, q saslauthd.Request) (saslauthd.Answer, error) {
	t.Helper()
	conn, err := saslauthd.Dial(t.Context(), r.path)
	if err != nil {
		t.Fatal(err)
	}
	return saslauthd.Ask(t.Context(), conn, q)
}

var client = netip.MustParseAddr("192.0.2.7")

// Clients that send extended requests get more details than other clients of saslauthd.
func TestHelperAnswers(t *testing.T) {
	h := startScripted(t, nil)
	noAnswer := "no answer"
	tests := []struct {
		name            string
		login, password string
		service         string
		extended, basic string
	}{
		{"right", "alice", "right", "smtp", "OK alice", "OK"},
		{"wrong", "alice", "wrong", "smtp", "NO refused Authentication failure", "NO"},
		{"expired", "alice", "expired", "smtp", "NO expired", "NO"},
		{"backend down", "alice", "down", "smtp", "TRYAGAIN no server", noAnswer},
		{"child crashes", "alice", "crash", "smtp", "TRYAGAIN ...", noAnswer},
		{"no answer of the child", "alice", "mute", "smtp", "TRYAGAIN ...", noAnswer},
		{"another service", "alice", "right", "su", "TRYAGAIN ...", noAnswer},
		{"empty login", "", "right", "smtp", "NO refused empty login or password", "NO"},
		{"empty password", "alice", "", "smtp", "NO refused empty login or password", "NO"},
		{"newline", "alice\nroot", "right", "smtp", "NO unknown-user ...", "NO"},
		{"tab", "alice\tlocal", "right", "smtp", "NO unknown-user ...", "NO"},
		{"not UTF-8", "alice\xff", "right", "smtp", "NO unknown-user ...", "NO"},
		{"path", "../../etc/shadow", "right", "smtp", "NO unknown-user ...", "NO"},
		{"long login", strings.Repeat("x", 1000), "right", "smtp", "NO unknown-user ...", "NO"},
		{"too long a login", strings.Repeat("x", 60000), "right", "smtp", "NO refused", "NO"},
		{"LDAP filter", "*)(uid=*", "right", "smtp", "OK *)(uid=*", "OK"},
		{"SQL", "a' or 1=1--", "wrong", "smtp", "NO refused Authentication failure", "NO"},
	}
	for _, tt := range tests {
		q := saslauthd.Request{Login: tt.login, Password: tt.password, Service: tt.service, Realm: "ignored.example"}
		if got := format(h.ask(t, q)); got != tt.basic {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.basic)
		}
		q.Extended, q.Client = true, client
		got := format(h.ask(t, q))
		if want, open := strings.CutSuffix(tt.extended, "..."); got != want && !(open && strings.HasPrefix(got, want)) && tt.name != "too long a login" {
			t.Errorf("%s, extended: %q, want %q", tt.name, got, tt.extended)
		}
	}
}

func format(a saslauthd.Answer, err error) string {
	if err != nil {
		return "no answer"
	}
	return strings.TrimSpace(a.Verdict.String() + " " + a.Text)
}

func TestCombineRealm(t *testing.T) {
	h := startScripted(t, func(c *HelperConfig) { c.CombineRealm = true })
	q := saslauthd.Request{Login: "alice", Password: "right", Service: "smtp", Realm: "example.org", Extended: true}
	if got := format(h.ask(t, q)); got != "OK alice@example.org" {
		t.Error(got)
	}
	q.Realm = ""
	if got := format(h.ask(t, q)); got != "OK alice" {
		t.Error(got)
	}
}

func TestHelperKeepsSecrets(t *testing.T) {
	h := startScripted(t, nil)
	for _, password := range []string{"wrong:hunter2", "crash:hunter2", "right:hunter2"} {
		_, _ = h.ask(t, saslauthd.Request{Login: "alice\n\x1b[2J", Password: password, Service: "smtp"})
		_, _ = h.ask(t, saslauthd.Request{Login: "alice", Password: password, Service: "smtp", Extended: true, Client: client})
	}
	h.stop()
	log := h.log.String()
	if strings.Contains(log, "hunter2") || strings.Contains(log, "\x1b") {
		t.Errorf("the log has a password or an escape character:\n%s", log)
	}
	if !strings.Contains(log, "client=192.0.2.7") || !strings.Contains(log, "caller="+strconv.Itoa(os.Getuid())) {
		t.Errorf("the log has no client or no caller:\n%s", log)
	}
}

// While one request hangs, others are answered, and it ends at the timeout.
func TestHelperHang(t *testing.T) {
	t.Parallel()
	h := startScripted(t, func(c *HelperConfig) { c.Timeout, c.Processes = 10*time.Second, 2 })
	file := filepath.Join(t.TempDir(), "pid")
	var hanging sync.WaitGroup
	hanging.Go(func() {
		got := format(h.ask(t, saslauthd.Request{Login: "alice", Password: "hang:" + file, Service: "smtp", Extended: true}))
		if !strings.HasPrefix(got, "TRYAGAIN PAM did not answer within 10s; a module of the service waits") {
			t.Errorf("hanging: %q", got)
		}
	})
	waitFor(t, file)
	if got := format(h.ask(t, saslauthd.Request{Login: "bob", Password: "right", Service: "smtp"})); got != "OK" {
		t.Errorf("another: %q", got)
	}
	hanging.Wait()
	wantGone(t, file)
}

// A request that gets no child before the timeout has a temporary error.
func TestHelperBusy(t *testing.T) {
	t.Parallel()
	h := startScripted(t, func(c *HelperConfig) { c.Timeout, c.Processes = 10*time.Second, 1 })
	file := filepath.Join(t.TempDir(), "pid")
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = h.ask(t, saslauthd.Request{Login: "alice", Password: "hang:" + file, Service: "smtp"})
	})
	waitFor(t, file)
	conn, err := saslauthd.Dial(t.Context(), h.path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close() // a client without a request occupies no child
	for range 3 {
		both.Go(func() {
			got := format(h.ask(t, saslauthd.Request{Login: "bob", Password: "right", Service: "smtp", Extended: true}))
			if got != "OK bob" && !strings.HasPrefix(got, "TRYAGAIN ") {
				t.Errorf("waiting: %q", got)
			}
		})
	}
	both.Wait()
}

// If a client closes the connection, its child is killed before the timeout.
func TestClientHangsUp(t *testing.T) {
	h := startScripted(t, nil)
	file := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancel(t.Context())
	go func() { waitFor(t, file); cancel() }()
	conn, err := saslauthd.Dial(ctx, h.path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = saslauthd.Ask(ctx, conn, saslauthd.Request{Login: "alice", Password: "hang:" + file, Service: "smtp"})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	wantGone(t, file)
}

// A client that only closes its sending direction gets an answer.
func TestClientHalfClosed(t *testing.T) {
	h := startScripted(t, nil)
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: h.path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	text, _ := saslauthd.Request{Login: "alice", Password: "right", Service: "smtp"}.Append(nil)
	if _, err := conn.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got := format(saslauthd.ReadAnswer(conn)); got != "OK" {
		t.Error(got)
	}
}

// Invalid and incomplete requests are not answered with OK.
func TestHelperRefusesInvalidRequests(t *testing.T) {
	h := startScripted(t, nil)
	for _, text := range []string{"", "\x00", "\x00\x05ali", "GET / HTTP/1.0\r\n\r\n", strings.Repeat("\x00\x01a", 4)} {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: h.path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte(text))
		_ = conn.CloseWrite()
		if a, err := saslauthd.ReadAnswer(conn); err == nil && a.Verdict == saslauthd.OK {
			t.Errorf("%q was answered with OK", text)
		}
		conn.Close()
	}
	if got := format(h.ask(t, saslauthd.Request{Login: "alice", Password: "right", Service: "smtp"})); got != "OK" {
		t.Error(got)
	}
}

func TestProcessesAreBounded(t *testing.T) {
	h := startScripted(t, func(c *HelperConfig) { c.Processes = 3 })
	dir := t.TempDir()
	var clients sync.WaitGroup
	for range 24 {
		clients.Go(func() {
			a, err := h.ask(t, saslauthd.Request{Login: "alice", Password: "crowd:" + dir, Service: "smtp", Extended: true})
			if n, _ := strconv.Atoi(a.Text); err != nil || n < 1 || n > 3 {
				t.Errorf("%+v, %v", a, err)
			}
		})
	}
	clients.Wait()
}

// The end of the helper ends its children.
func TestHelperEnds(t *testing.T) {
	h := startScripted(t, nil)
	file := filepath.Join(t.TempDir(), "pid")
	var asking sync.WaitGroup
	asking.Go(func() {
		_, _ = h.ask(t, saslauthd.Request{Login: "alice", Password: "hang:" + file, Service: "smtp"})
	})
	waitFor(t, file)
	h.stop()
	asking.Wait()
	wantGone(t, file)
	if _, err := os.Lstat(h.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// A panic in one request does not end the helper.
func TestHelperSurvives(t *testing.T) {
	h := startScripted(t, func(c *HelperConfig) {
		c.Child = func(context.Context) *exec.Cmd { return nil } // causes a panic
	})
	q := saslauthd.Request{Login: "alice", Password: "right", Service: "smtp"}
	for range 3 {
		if _, err := h.ask(t, q); !errors.Is(err, io.EOF) {
			t.Errorf("%v", err)
		}
	}
}

func TestIdentity(t *testing.T) {
	tests := []struct {
		a    saslauthd.Answer
		want string
	}{
		{accept("alice"), "accepted"},
		{reject(auth.NoSuchUser, ""), auth.NoSuchUser.String()},
		{reject(auth.Unknowable, "why"), auth.Unknowable.String()},
		{reject(auth.Disabled, "why"), auth.Disabled.String()},
		{reject(auth.Expired, ""), auth.Expired.String()},
		{reject(auth.NotAllowed, ""), "temporary"}, // has no word
		{saslauthd.Answer{Verdict: saslauthd.NO}, auth.Unknowable.String()},
		{saslauthd.Answer{Verdict: saslauthd.NO, Text: "authentication failed"}, auth.Unknowable.String()},
		{saslauthd.Answer{Verdict: saslauthd.OK}, "temporary"},
		{tryAgain("no server"), "temporary"},
		{saslauthd.Answer{}, "temporary"},
	}
	for _, tt := range tests {
		id, err := identity(tt.a)
		got := "accepted"
		if f, ok := errors.AsType[*auth.Failure](err); ok {
			got = f.Kind.String()
		} else if err != nil {
			got = "temporary"
		} else if id.User != "alice" || id.Store != Kind {
			got = "accepted " + id.User
		}
		if got != tt.want {
			t.Errorf("%+v: %s (%v), want %s", tt.a, got, err, tt.want)
		}
	}
}
