package test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"postern/internal/authsocket"
	"postern/server/auth"
	"postern/server/auth/saslauthd"
	"postern/test/kit"
)

// A cyrusDaemon is the saslauthd of Cyrus SASL, with a socket in a temporary folder. It runs
// in a mount namespace with other files in /etc, so that no file of the machine is
// changed.
type cyrusDaemon struct {
	dir   string
	etc   string // shell commands that mount files below /etc
	flags []string
	cmd   *exec.Cmd
	hold  io.Closer // closed to end the daemon
}

func startSaslauthd(t *testing.T, etc string, flags ...string) *cyrusDaemon {
	t.Helper()
	peer(t, "root", "saslauthd", "unshare")
	d := &cyrusDaemon{dir: kit.OpenDir(t), etc: etc, flags: flags}
	d.start(t)
	t.Cleanup(func() { d.stop(t) })
	return d
}

func (d *cyrusDaemon) socket() string { return filepath.Join(d.dir, "mux") }

func (d *cyrusDaemon) start(t *testing.T) {
	t.Helper()
	// The guard ends the daemon and its children when this process ends.
	guard := `unshare --mount sh -c "$0" "$@" </dev/null & read -r _; kill -KILL 0`
	inside := d.etc + ` && exec saslauthd -d -m "$0" "$@"` // -d: in the foreground
	d.cmd = exec.Command("sh", append([]string{"-c", guard, inside, d.dir}, d.flags...)...)
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	hold, err := d.cmd.StdinPipe()
	kit.Must(t, err)
	d.hold = hold
	log, err := os.OpenFile(filepath.Join(d.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	kit.Must(t, err)
	defer log.Close()
	d.cmd.Stdout, d.cmd.Stderr = log, log
	kit.Must(t, d.cmd.Start())
	kit.Eventually(t, "saslauthd", func() bool { return d.store("").Check(t.Context()) == nil })
}

// signal reaches all processes of the daemon.
func (d *cyrusDaemon) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	kit.Must(t, syscall.Kill(-d.cmd.Process.Pid, s))
}

// stop ends it by SIGKILL: saslauthd's handler of SIGTERM writes to the log, and may
// deadlock there.
func (d *cyrusDaemon) stop(t *testing.T) {
	if d.cmd == nil {
		return
	}
	_ = syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL)
	_ = d.hold.Close()
	_ = d.cmd.Wait() // ended by a signal, as intended
	d.cmd = nil
	// Wait waited only for the guard. Each of the other processes listens until it ends.
	if !kit.Soon(func() bool { return d.store("").Check(context.Background()) != nil }) {
		t.Error("a process still listens on the socket")
	}
	if t.Failed() {
		text, _ := os.ReadFile(filepath.Join(d.dir, "log"))
		t.Logf("log of saslauthd:\n%s", text)
	}
}

func (d *cyrusDaemon) store(realm string) *saslauthd.Store {
	return saslauthd.New(saslauthd.Config{Path: d.socket(), Service: "smtp", Realm: realm})
}

// answerOf returns the answer of a store: "yes", a kind of failure, or "later".
func answerOf(t *testing.T, s auth.PasswordVerifier, login, password string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	id, err := s.VerifyPassword(ctx, remotePeer, login, password)
	if f, ok := errors.AsType[*auth.Failure](err); ok {
		return f.Kind.String()
	}
	switch {
	case err != nil:
		t.Logf("%.40q: %v", login, err)
		return "later"
	case id.User != login:
		return "yes to " + id.User
	}
	return "yes"
}

var remotePeer = &auth.Peer{Remote: netip.MustParseAddrPort("192.0.2.7:4711")}

// hostileNames are logins that have a meaning in some query language or protocol.
var hostileNames = []string{
	"*)(uid=*", "a' or 1=1--", "x\tlocal", "x\ny", "x\x00y", "../../etc/shadow", "%n%s", "-", strings.Repeat("x", 1<<20),
}

const (
	refused = "refused" // auth.Unknowable
	unknown = "no such user"
)

// A user database of Cyrus SASL in the place of /etc/sasldb2.
func TestSaslauthdSasldb(t *testing.T) {
	t.Parallel()
	peer(t, "root", "saslpasswd2")
	db := filepath.Join(kit.OpenDir(t), "sasldb2")
	setSasldb(t, db, "alice", "example.org", "sesame")
	setSasldb(t, db, "bob", "example.org", "wonderland")
	d := startSaslauthd(t, fmt.Sprintf("mount --bind %s /etc/sasldb2", db), "-a", "sasldb", "-n", "4")
	s := d.store("example.org")
	for _, tt := range []struct{ login, password, want string }{
		{"alice", "sesame", "yes"},
		{"alice", "wrong", refused},
		{"alice", "wonderland", refused}, // the password of bob
		{"bob", "wonderland", "yes"},
		{"carol", "sesame", refused},
	} {
		if got := answerOf(t, s, tt.login, tt.password); got != tt.want {
			t.Errorf("%s, %s: %s, want %s", tt.login, tt.password, got, tt.want)
		}
	}
	if got := answerOf(t, d.store("example.com"), "alice", "sesame"); got != refused {
		t.Errorf("in another realm: %s", got)
	}
	for _, name := range hostileNames {
		if got := answerOf(t, s, name, "sesame"); got != refused && got != unknown {
			t.Errorf("%.20q: %s", name, got)
		}
	}
	setSasldb(t, db, "alice", "example.org", "simsalabim")
	if got := answerOf(t, s, "alice", "sesame"); got != refused {
		t.Errorf("the old password: %s", got)
	}
	if got := answerOf(t, s, "alice", "simsalabim"); got != "yes" {
		t.Errorf("the new password: %s", got)
	}
}

func setSasldb(t *testing.T, db, user, realm, password string) {
	t.Helper()
	cmd := exec.Command("saslpasswd2", "-f", db, "-p", "-c", "-u", realm, user)
	cmd.Stdin = strings.NewReader(password)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("saslpasswd2: %v\n%s", err, out)
	}
}

// A saslauthd that is down, up again, and hangs; 50 abandoned logins, and 200 at once.
func TestSaslauthdFaults(t *testing.T) {
	t.Parallel()
	peer(t, "root", "saslpasswd2")
	db := filepath.Join(kit.OpenDir(t), "sasldb2")
	setSasldb(t, db, "alice", "example.org", "sesame")
	d := startSaslauthd(t, fmt.Sprintf("mount --bind %s /etc/sasldb2", db), "-a", "sasldb", "-n", "4")
	s := d.store("example.org")

	d.stop(t)
	if got := answerOf(t, s, "alice", "sesame"); got != "later" {
		t.Errorf("down: %s", got)
	}
	if err := s.Check(t.Context()); err == nil || !strings.Contains(err.Error(), d.dir) {
		t.Errorf("down: Check returns %v", err)
	}
	d.start(t)
	if got := answerOf(t, s, "alice", "sesame"); got != "yes" {
		t.Errorf("back: %s", got)
	}

	d.signal(t, syscall.SIGSTOP)
	abandon(t, 50, func(ctx context.Context) error {
		_, err := s.VerifyPassword(ctx, remotePeer, "alice", "sesame")
		return err
	})
	d.signal(t, syscall.SIGCONT)
	atOnce(t, 200, func(i int) {
		password, want := "sesame", "yes"
		if i%2 == 1 {
			password, want = "wrong", refused
		}
		if got := answerOf(t, s, "alice", password); got != want {
			t.Errorf("%d of 200: %s, want %s", i, got, want)
		}
	})
}

// abandon starts n logins at once and cancels each after half a second.
func abandon(t *testing.T, n int, ask func(context.Context) error) {
	t.Helper()
	atOnce(t, n, func(i int) {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if err := ask(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("abandoned: %v", err)
		}
	})
}

func atOnce(t *testing.T, n int, do func(i int)) {
	t.Helper()
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { do(i) })
	}
	all.Wait()
}

// saslauthd with PAM. It ignores the marker of a fifth string in the request.
func TestSaslauthdPAM(t *testing.T) {
	t.Parallel()
	user := newUser(t, "sesame")
	services := kit.OpenDir(t)
	write(t, filepath.Join(services, "smtp"), "auth required pam_unix.so nodelay\naccount required pam_unix.so\n")
	d := startSaslauthd(t, fmt.Sprintf("mount --bind %s /etc/pam.d", services), "-a", "pam", "-n", "2")
	s := d.store("")
	for _, tt := range []struct{ login, password, want string }{
		{user, "sesame", "yes"},
		{user, "wrong", refused},
		{"no-such-user", "sesame", refused},
	} {
		if got := answerOf(t, s, tt.login, tt.password); got != tt.want {
			t.Errorf("%s, %s: %s, want %s", tt.login, tt.password, got, tt.want)
		}
	}
	for password, want := range map[string]saslauthd.Verdict{"sesame": saslauthd.OK, "wrong": saslauthd.NO} {
		conn, err := saslauthd.Dial(t.Context(), d.socket())
		kit.Must(t, err)
		a, err := saslauthd.Ask(t.Context(), conn, saslauthd.Request{
			Login: user, Password: password, Service: "smtp", Extended: true, Client: remotePeer.Remote.Addr(),
		})
		if err != nil || a.Verdict != want {
			t.Errorf("five strings, %s: %+v, %v", password, a, err)
		}
	}
}

// The sockets of real daemons are recognised by what they send.
func TestAuthSockets(t *testing.T) {
	t.Parallel()
	d, s, p := startDovecot(t), startSaslauthd(t, "true", "-a", "sasldb"), startPostfix(t, startSink(t))
	for path, want := range map[string]authsocket.Kind{
		s.socket():                        authsocket.Saslauthd,
		d.socket:                          authsocket.DovecotAuth,
		d.dir + "/master":                 authsocket.DovecotMaster,
		d.dir + "/run/auth-userdb":        authsocket.DovecotMaster,
		d.dir + "/run/auth-worker":        authsocket.DovecotOther,
		p.dir + "/spool/private/rewrite":  authsocket.Postfix,
		p.dir + "/spool/private/proxymap": authsocket.Postfix,
		p.dir + "/spool/private/anvil":    authsocket.Postfix,
		p.dir + "/spool/private/defer":    authsocket.Postfix,
	} {
		got, err := authsocket.Probe(t.Context(), "unix", path)
		if err != nil || got.Kind != want {
			t.Errorf("%s: got %+v, %v, want kind %d", path, got, err, want)
		}
	}
	got, err := authsocket.Probe(t.Context(), "unix", d.dir+"/run/anvil")
	if err != nil || got.Kind != authsocket.Unknown || !strings.Contains(got.Process, "dovecot") {
		t.Errorf("anvil: got %+v, %v, want an unknown daemon of the process dovecot", got, err)
	}
}
