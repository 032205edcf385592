package test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"postern/server/auth"
	"postern/server/auth/dovecot"
	"postern/test/kit"
)

func TestDovecotMechanisms(t *testing.T) {
	t.Parallel()
	d := startDovecot(t)
	p := d.proxy(t, d.socket)
	want := []string{"PLAIN", "LOGIN", "CRAM-MD5", "DIGEST-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256"}
	kit.Eventually(t, "Dovecot's mechanisms", func() bool { return slices.Equal(p.Mechanisms(tlsClient(0)), want) })
	for i, mech := range want {
		t.Run(mech, func(t *testing.T) {
			t.Parallel()
			id, err := gsaslLogin(t, p, tlsClient(i), mech, "alice@example.org", "secret")
			user := "alice@example.org"
			if want := (auth.Identity{User: user, As: user, Mechanism: mech, Store: dovecot.Kind}); err != nil || id != want {
				t.Errorf("right password: %+v, %v", id, err)
			}
			_, err = gsaslLogin(t, p, tlsClient(i), mech, "alice@example.org", "wrong")
			wantKind(t, "wrong password", err, auth.Unknowable)
			_, err = gsaslLogin(t, p, tlsClient(i), mech, "nobody@example.org", "secret")
			wantKind(t, "unknown user", err, auth.Unknowable)
		})
	}
}

// Both kinds of sockets, with Dovecot as one store of several.
func TestDovecotAccounts(t *testing.T) {
	t.Parallel()
	d := startDovecot(t)
	for _, addr := range []string{d.socket, "inet:127.0.0.1:" + d.port} {
		t.Run(addr, func(t *testing.T) {
			t.Parallel()
			d.wantAccounts(t, addr)
		})
	}
	wrong := d.proxy(t, d.dir+"/master")
	if err := wrong.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "auth-master") {
		t.Errorf("a master socket: %v", err)
	}
}

func (d *dovecotd) wantAccounts(t *testing.T, addr string) {
	t.Helper()
	p := d.proxy(t, addr)
	if err := p.Check(t.Context()); err != nil {
		t.Error(err)
	}
	verify := func(login, password string) (auth.Identity, error) {
		return p.VerifyPassword(t.Context(), tlsClient(1), login, password)
	}
	if id, err := verify("alice@example.org", "secret"); err != nil || id.User != "alice@example.org" || id.Store != dovecot.Kind {
		t.Errorf("%+v, %v", id, err)
	}
	if id, err := verify("bob@example.org*admin", "master"); err != nil || id.User != "admin" || id.As != "bob@example.org" {
		t.Errorf("master user: %+v, %v", id, err)
	}
	_, err := verify("alice@example.org", "hunter2")
	wantKind(t, "the password of another user", err, auth.Unknowable)
	_, err = verify("bob@example.org*admin", "hunter2")
	wantKind(t, "master user with the user's password", err, auth.Unknowable)
	_, err = verify("closed@example.org", "secret")
	wantKind(t, "nologin", err, auth.Disabled)
	_, err = verify("closed@example.org", "wrong")
	wantKind(t, "nologin, wrong password", err, auth.Unknowable)
	_, err = verify("disabled@example.org", "secret")
	wantKind(t, "disabled", err, auth.Disabled)
	_, err = verify("elsewhere@example.org", "anything")
	wantTemporary(t, "any password for a user of another server", err)
	_, err = verify("broken@example.org", "secret")
	wantTemporary(t, "broken database", err)
}

func TestDovecotHostileNames(t *testing.T) {
	t.Parallel()
	d := startDovecot(t)
	p := d.proxy(t, d.socket)
	logins := []string{
		"*)(uid=*", "a' or 1=1--", "x\nOK\t1\tuser=x", "x\tlocal", "x\x00y", "../../etc/passwd", "%{password}", "\xff\xfe", "",
		strings.Repeat("x", 1<<20),
	}
	var all sync.WaitGroup
	for i, login := range logins {
		all.Go(func() {
			_, err := p.VerifyPassword(t.Context(), tlsClient(i), login, "secret")
			if _, ok := errors.AsType[*auth.Failure](err); !ok {
				t.Errorf("%.20q: %v", login, err)
			}
			_, err = plainLogin(t.Context(), p, tlsClient(i), login, "secret")
			if _, ok := errors.AsType[*auth.Failure](err); !ok && !errors.Is(err, auth.ErrMalformed) {
				t.Errorf("%.20q as the only store: %v", login, err)
			}
		})
	}
	all.Wait()
	if _, err := plainLogin(t.Context(), p, tlsClient(99), "alice@example.org", "secret"); err != nil {
		t.Errorf("alice afterwards: %v", err)
	}
	if strings.Contains(d.log(), "BUG") {
		t.Error("the log of Dovecot has BUG")
	}
}

func TestDovecotManyAtOnce(t *testing.T) {
	t.Parallel()
	d := startDovecot(t)
	p := d.proxy(t, d.socket)
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			if id, err := plainLogin(t.Context(), p, tlsClient(i), "alice@example.org", "secret"); err != nil || id.User != "alice@example.org" {
				t.Errorf("login %d: %+v, %v", i, id, err)
			}
		})
	}
	for i := range 50 { // abandoned after the first step
		all.Go(func() {
			x, err := p.Start(t.Context(), tlsClient(1000+i), "CRAM-MD5")
			if errors.Is(err, auth.ErrMechanism) { // Dovecot has not sent its mechanisms yet
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			if _, _, err := x.Next(t.Context(), nil); err != nil {
				t.Error(err)
			}
			x.Close()
		})
	}
	all.Wait()
	if _, err := plainLogin(t.Context(), p, tlsClient(2000), "bob@example.org", "hunter2"); err != nil {
		t.Error(err)
	}
	p.Close()
	time.Sleep(100 * time.Millisecond)
	for _, text := range []string{"BUG", "pending requests"} {
		if strings.Contains(d.log(), text) {
			t.Errorf("the log of Dovecot has %q", text)
		}
	}
}

func TestDovecotDownAndBack(t *testing.T) {
	t.Parallel()
	d := startDovecot(t)
	p := d.proxy(t, d.socket)
	login := aliceLogin(t, p)
	kit.Must(t, login())
	for range 2 {
		d.stop(t)
		wantTemporary(t, "while Dovecot is down", login())
		wantTemporary(t, "while Dovecot is down, again", login())
		if !slices.Contains(p.Mechanisms(tlsClient(1)), "SCRAM-SHA-256") {
			t.Error("the mechanisms are not offered any more")
		}
		if err := p.Check(t.Context()); err == nil || !strings.Contains(err.Error(), d.socket) {
			t.Errorf("check: %v", err)
		}
		d.start(t)
		kit.Eventually(t, "a login", func() bool { return login() == nil })
	}
}

// While the auth process is stopped, logins fail in time and the mechanisms are still
// offered. When it continues, logins succeed.
func TestDovecotHangs(t *testing.T) {
	t.Parallel()
	d := startDovecot(t)
	p := d.proxy(t, d.socket)
	login := aliceLogin(t, p)
	kit.Must(t, login())
	d.signal(t, syscall.SIGSTOP)
	defer d.signal(t, syscall.SIGCONT)
	patient := p.Calls
	p.Calls = auth.NewCalls(time.Second, 200)
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			_, err := plainLogin(t.Context(), p, tlsClient(i), "alice@example.org", "secret")
			wantTemporary(t, "while Dovecot hangs", err)
		})
	}
	all.Wait()
	if len(p.Mechanisms(tlsClient(1))) == 0 {
		t.Error("no mechanisms")
	}
	d.signal(t, syscall.SIGCONT)
	p.Calls = patient
	kit.Eventually(t, "a login", func() bool { return login() == nil })
}

func TestDovecotChanges(t *testing.T) {
	t.Parallel()
	d := startDovecot(t)
	p := d.proxy(t, d.socket)
	login := func(password string) error {
		_, err := plainLogin(t.Context(), p, tlsClient(1), "alice@example.org", password)
		return err
	}
	kit.Must(t, login("secret"))
	write(t, filepath.Join(d.dir, "users"), "alice@example.org:{PLAIN}changed and longer\n")
	kit.Eventually(t, "the new password", func() bool { return login("changed and longer") == nil })
	wantKind(t, "old password", login("secret"), auth.Unknowable)

	d.configure(t, "plain cram-md5")
	if out, err := exec.Command("doveadm", "-c", filepath.Join(d.dir, "conf"), "reload").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	kit.Eventually(t, "the new mechanisms", func() bool {
		return p.Reload(t.Context()) == nil && slices.Equal(p.Mechanisms(tlsClient(1)), []string{"PLAIN", "CRAM-MD5"})
	})
}

// aliceLogin returns a function that logs in as alice, by PLAIN.
func aliceLogin(t *testing.T, p auth.Provider) func() error {
	return func() error {
		_, err := plainLogin(t.Context(), p, tlsClient(1), "alice@example.org", "secret")
		return err
	}
}

func plainLogin(ctx context.Context, p auth.Provider, client *auth.Peer, user, password string) (auth.Identity, error) {
	x, err := p.Start(ctx, client, "PLAIN")
	if err != nil {
		return auth.Identity{}, err
	}
	defer x.Close()
	_, done, err := x.Next(ctx, []byte("\x00"+user+"\x00"+password))
	if err == nil && !done {
		err = errors.New("PLAIN is not finished after its one message")
	}
	return x.Identity(), err
}

func wantKind(t *testing.T, what string, err error, kind auth.FailureKind) {
	t.Helper()
	if f, ok := errors.AsType[*auth.Failure](err); !ok || f.Kind != kind {
		t.Errorf("%s: got %v, want %v", what, err, kind)
	}
}

func wantTemporary(t *testing.T, what string, err error) {
	t.Helper()
	if _, ok := errors.AsType[*auth.Failure](err); ok || err == nil {
		t.Errorf("%s: got %v, want a temporary error", what, err)
	}
}

// tlsClient returns a different client for each n.
func tlsClient(n int) *auth.Peer {
	return &auth.Peer{
		Remote:  netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, byte(n >> 8), byte(n)}), 50000),
		Local:   netip.MustParseAddrPort("192.0.2.1:587"),
		TLS:     &tls.ConnectionState{},
		Session: fmt.Sprint("s", n),
	}
}
