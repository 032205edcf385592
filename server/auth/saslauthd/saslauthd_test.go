package saslauthd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"postern/server/auth"
	"postern/test/kit"
)

func TestMain(m *testing.M) { os.Exit(kit.Main(m)) }

// A daemon is a scripted saslauthd. It reads a request, calls a function that answers it, and
// closes the connection.
type daemon struct {
	path string
	mu   sync.Mutex
	seen []Request
}

func startDaemon(t *testing.T, answer func(r Request, conn net.Conn)) *daemon {
	t.Helper()
	d := &daemon{path: filepath.Join(t.TempDir(), "mux")}
	l, err := net.Listen("unix", d.path)
	if err != nil {
		t.Fatal(err)
	}
	var handlers sync.WaitGroup
	handlers.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			handlers.Go(func() {
				defer conn.Close()
				r, err := ReadRequest(conn)
				if err != nil {
					return
				}
				d.mu.Lock()
				d.seen = append(d.seen, r)
				d.mu.Unlock()
				answer(r, conn)
			})
		}
	})
	t.Cleanup(func() { l.Close(); handlers.Wait() })
	return d
}

func (d *daemon) requests() []Request {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]Request(nil), d.seen...)
}

func (d *daemon) store() *Store {
	return New(Config{Path: d.path, Service: "smtp", Realm: "example.org"})
}

// send returns a function that answers with text.
func send(text string) func(Request, net.Conn) {
	return func(_ Request, conn net.Conn) { fmt.Fprint(conn, text) }
}

func TestVerifyPassword(t *testing.T) {
	tests := []struct {
		name, answer string
		want         string // "accepted", a kind of failure, or "temporary"
	}{
		{"OK", "\x00\x02OK", "accepted"},
		{"OK with text", "\x00\x06OK yes", "accepted"},
		{"NO", "\x00\x02NO", auth.Unknowable.String()},
		{"NO with text", "\x00\x19NO authentication failure", auth.Unknowable.String()},
		{"neither", "\x00\x05MAYBE", "temporary"},
		{"empty", "\x00\x00", "temporary"},
		{"OK in small letters", "\x00\x02ok", "temporary"},
		{"a word that begins with OK", "\x00\x04OKAY", "temporary"},
		{"nothing", "", "temporary"},
		{"half a count", "\x00", "temporary"},
		{"half an answer", "\x00\x02O", "temporary"},
		{"OK in an incomplete answer", "\xff\xffOK", "temporary"},
		{"no count", "OK", "temporary"},
		{"garbage", strings.Repeat("\xfe", 1<<17), "temporary"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := startDaemon(t, send(tt.answer))
			id, err := d.store().VerifyPassword(t.Context(), &auth.Peer{}, "alice", "pw")
			if got := outcome(id, err); got != tt.want {
				t.Errorf("%s (%v), want %s", got, err, tt.want)
			}
			want := Request{Login: "alice", Password: "pw", Service: "smtp", Realm: "example.org"}
			if seen := d.requests(); len(seen) != 1 || seen[0] != want {
				t.Errorf("requests %+v", seen)
			}
		})
	}
}

func outcome(id auth.Identity, err error) string {
	switch f, ok := errors.AsType[*auth.Failure](err); {
	case ok:
		return f.Kind.String()
	case err != nil:
		return "temporary"
	case id != auth.Identity{User: "alice", Store: Kind}:
		return fmt.Sprintf("accepted %+v", id)
	}
	return "accepted"
}

// Strings that do not fit into the protocol are not sent to the daemon.
func TestUnsendable(t *testing.T) {
	d := startDaemon(t, send("\x00\x02OK"))
	long := strings.Repeat("x", 1<<20)
	tests := []struct {
		login, password string
		want            auth.FailureKind
	}{
		{long, "pw", auth.NoSuchUser},
		{long[:MaxField+1], "pw", auth.NoSuchUser},
		{"alice", long[:MaxField+1], auth.Unknowable},
		{"mallory", long[:MaxField+1], auth.Unknowable},
		{"alice\x00", "pw", auth.NoSuchUser},
		{"alice", long, auth.Unknowable},
		{"alice", "pw\x00", auth.Unknowable},
	}
	for _, tt := range tests {
		_, err := d.store().VerifyPassword(t.Context(), &auth.Peer{}, tt.login, tt.password)
		if f, ok := errors.AsType[*auth.Failure](err); !ok || f.Kind != tt.want {
			t.Errorf("%.10q, %.10q: %v", tt.login, tt.password, err)
		}
	}
	if seen := d.requests(); len(seen) != 0 {
		t.Errorf("%d requests reached the daemon", len(seen))
	}
	if _, err := d.store().VerifyPassword(t.Context(), &auth.Peer{}, "alice", long[:MaxField]); err != nil {
		t.Errorf("the longest password: %v", err)
	}
}

// No character of a login or password has a meaning in the protocol.
func TestHostileNames(t *testing.T) {
	d := startDaemon(t, send("\x00\x02NO"))
	for _, name := range []string{"*)(uid=*", "a' or 1=1--", "x\tlocal", "x\ny", "../../etc/shadow", "\x00postern/1", strings.Repeat("x", 1024)} {
		_, err := d.store().VerifyPassword(t.Context(), &auth.Peer{}, name, name)
		if _, ok := errors.AsType[*auth.Failure](err); !ok {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, r := range d.requests() {
		if r.Login != r.Password || r.Service != "smtp" || r.Realm != "example.org" || r.Extended {
			t.Errorf("the daemon received %+v", r)
		}
	}
}

// If the daemon hangs, a request ends at its deadline, and others are not affected.
func TestHang(t *testing.T) {
	free := make(chan struct{})
	d := startDaemon(t, func(r Request, conn net.Conn) {
		if r.Login == "hang" {
			<-free
		}
		fmt.Fprint(conn, "\x00\x02OK")
	})
	defer close(free)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := d.store().VerifyPassword(ctx, &auth.Peer{}, "hang", "pw")
	if _, refused := errors.AsType[*auth.Failure](err); refused || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("hanging: %v", err)
	}
	if _, err := d.store().VerifyPassword(t.Context(), &auth.Peer{}, "alice", "pw"); err != nil {
		t.Errorf("another: %v", err)
	}
}

// A request ends when its context without a deadline is cancelled.
func TestCancel(t *testing.T) {
	asked := make(chan struct{})
	free := make(chan struct{})
	d := startDaemon(t, func(Request, net.Conn) { close(asked); <-free })
	defer close(free)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	_, err := d.store().VerifyPassword(ctx, &auth.Peer{}, "alice", "pw")
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestManyAtOnce(t *testing.T) {
	var asked atomic.Int32
	d := startDaemon(t, func(r Request, conn net.Conn) {
		asked.Add(1)
		fmt.Fprint(conn, map[bool]string{true: "\x00\x02OK", false: "\x00\x02NO"}[r.Password == "pw of "+r.Login])
	})
	var clients sync.WaitGroup
	for i := range 200 {
		clients.Go(func() {
			login := fmt.Sprint("user", i)
			password := "pw of " + login
			if i%2 == 1 {
				password = "pw of user0"
			}
			_, err := d.store().VerifyPassword(t.Context(), &auth.Peer{}, login, password)
			if (err == nil) != (i%2 == 0) {
				t.Errorf("%s: %v", login, err)
			}
		})
	}
	clients.Wait()
	if asked.Load() != 200 {
		t.Errorf("%d requests", asked.Load())
	}
}

// Dial waits while the backlog is full, until ctx ends at most.
func TestBusy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mux")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	first, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("full: %v", err)
	}
	time.AfterFunc(20*time.Millisecond, func() {
		if taken, _, err := syscall.Accept(fd); err == nil {
			syscall.Close(taken)
		}
	})
	second, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatalf("no longer full: %v", err)
	}
	second.Close()
}

func TestDown(t *testing.T) {
	d := startDaemon(t, send("\x00\x02OK"))
	s := New(Config{Path: d.path + ".later", Service: "smtp"})
	_, err := s.VerifyPassword(t.Context(), &auth.Peer{}, "alice", "pw")
	if u, ok := errors.AsType[*auth.Unavailable](err); !ok || u.Store != Kind {
		t.Errorf("down: %v", err)
	}
	if err := os.Rename(d.path, d.path+".later"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.VerifyPassword(t.Context(), &auth.Peer{}, "alice", "pw"); err != nil {
		t.Errorf("up: %v", err)
	}
}

func TestCheck(t *testing.T) {
	d := startDaemon(t, send("\x00\x02OK"))
	if err := d.store().Check(t.Context()); err != nil {
		t.Errorf("up: %v", err)
	}
	stale := filepath.Join(t.TempDir(), "stale")
	kit.StaleSocket(t, stale, 0o755)
	file := filepath.Join(t.TempDir(), "saslauthd.pid")
	kit.Must(t, os.WriteFile(file, nil, 0o600))
	for path, wants := range map[string][]string{
		filepath.Dir(d.path): {"is a folder, not a socket", "set path = \"" + d.path + "\""},
		file:                 {"is a file, not a socket", "set path to saslauthd's socket"},
		t.TempDir():          {"contains no socket of saslauthd", "/mux\""},
		startDaemon(t, send("VERSION\t1\t2\nMECH\tPLAIN\tplaintext\n")).path: {"is the socket of Dovecot's auth service", `set kind = "dovecot" and leave path`},
		startDaemon(t, send("VERSION\t1\t1\nSPID\t1\n")).path:                {"auth-userdb", `set kind = "dovecot", and path to`},
		startDaemon(t, send("220 mail.example.org ESMTP\r\n")).path:          {"a server for SMTP", "set path to saslauthd's socket"},
		stale:                              {stale, "no process listens", "mode", "systemctl restart saslauthd"},
		filepath.Join(d.path, "../x/mux"):  {"/x does not exist", "-m"},
		filepath.Join(t.TempDir(), "gone"): {"does not exist"},
	} {
		err := New(Config{Path: path}).Check(t.Context())
		for _, want := range wants {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", path, err, want)
			}
		}
	}
}

// A login names the other daemon, too.
func TestForeignDaemon(t *testing.T) {
	d := startDaemon(t, send("VERSION\t1\t2\nMECH\tPLAIN\tplaintext\n"))
	_, err := d.store().VerifyPassword(t.Context(), &auth.Peer{}, "alice", "pw")
	if u, ok := errors.AsType[*auth.Unavailable](err); !ok || !strings.Contains(u.Error(), "Dovecot's auth service") || !strings.Contains(u.Error(), `set kind = "dovecot"`) {
		t.Error(err)
	}
}

func TestValidate(t *testing.T) {
	tests := []struct {
		name string
		edit func(*Config)
		want string
	}{
		{"defaults", func(*Config) {}, ""},
		{"chroot", func(c *Config) { c.Path = "/var/spool/postfix/var/run/saslauthd/mux" }, ""},
		{"relative path", func(c *Config) { c.Path = "mux" }, "path"},
		{"long path", func(c *Config) { c.Path = "/" + strings.Repeat("x", 107) }, "path"},
		{"no service", func(c *Config) { c.Service = "" }, "service"},
		{"service with a NUL", func(c *Config) { c.Service = "smtp" + marker }, "service"},
		{"long service", func(c *Config) { c.Service = strings.Repeat("x", 257) }, "service"},
		{"realm", func(c *Config) { c.Realm = "example.org" }, ""},
		{"two realms", func(c *Config) { c.Realm = "example.org example.com" }, "realm"},
	}
	for _, tt := range tests {
		cfg := Defaults()
		tt.edit(&cfg)
		var keys []string
		cfg.Validate(func(key, why string) { keys = append(keys, key) })
		if got := strings.Join(keys, " "); got != tt.want {
			t.Errorf("%s: errors for %q, want %q", tt.name, got, tt.want)
		}
	}
}
