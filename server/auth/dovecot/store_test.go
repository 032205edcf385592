package dovecot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/server/auth"
	"postern/test/kit"
)

func TestVerifyPassword(t *testing.T) {
	f := startFake(t, goodGreeting, knowsAlice)
	s := f.store(t)
	id, err := verify(t, s, "alice", "secret")
	if want := (auth.Identity{User: "alice@example.org", As: "alice@example.org", Store: Kind}); err != nil || id != want {
		t.Errorf("%+v and %v, want %+v", id, err, want)
	}
	_, err = verify(t, s, "alice", "wrong")
	if failure, ok := errors.AsType[*auth.Failure](err); !ok || failure.Kind != auth.Unknowable {
		t.Errorf("wrong password: %v", err)
	}
	wantLine(t, f.received("VERSION"), "VERSION\t1\t2\n")
	wantLine(t, f.received("AUTH"), "AUTH\t1\tPLAIN\tservice=smtp\tnologin\tno-penalty\tsecured=tls\tsession=s1"+
		"\tlip=2001:db8::1\tlport=587\trip=192.0.2.7\trport=50000\tresp=AGFsaWNlAHNlY3JldA==\n")
}

// No value that a client chooses can end a field or a line.
func TestHostileNames(t *testing.T) {
	f := startFake(t, goodGreeting, knowsAlice)
	s := f.store(t)
	p := peer()
	p.Session = "a\tuser=b\nOK\t1\x00\x01"
	logins := []string{
		"*)(uid=*", "a' or 1=1--", "x\nOK\t1\tuser=x", "x\tlocal", "x\x00y", "../../etc/passwd", "", "\xff\xfe",
		strings.Repeat("x", 1<<20),
	}
	for _, login := range logins {
		_, err := s.VerifyPassword(t.Context(), p, login, "secret")
		if _, ok := errors.AsType[*auth.Failure](err); !ok {
			t.Errorf("%.20q: %v", login, err)
		}
	}
	if _, err := verify(t, s, "alice", "secret"); err != nil {
		t.Errorf("alice after all that: %v", err)
	}
	lines := f.received("AUTH")
	if len(lines) != len(logins)-2+1 { // the NUL and the megabyte are refused without a request
		t.Errorf("%d lines for %d logins", len(lines), len(logins))
	}
	for _, line := range lines[:len(lines)-1] {
		if !strings.Contains(line, "\tsession=a\x01tuser=b\x01lOK\x01t1\x010\x011\t") {
			t.Errorf("session id in %q", line)
		}
	}
}

// A password that does not fit in a line is refused for every user without asking
// Dovecot. How long it may be depends on Dovecot's version.
func TestLongPassword(t *testing.T) {
	for greeting, most := range map[string]int{goodGreeting: maxLine, strings.Replace(goodGreeting, "VERSION\t1\t2", "VERSION\t1\t0", 1): maxOldLine} {
		f := startFake(t, greeting, send("FAIL\t%ID\n"))
		s := f.store(t)
		for _, login := range []string{"alice", "mallory"} {
			_, err := verify(t, s, login, strings.Repeat("x", most*3/4))
			if failure, ok := errors.AsType[*auth.Failure](err); !ok || failure.Kind != auth.Unknowable || !strings.Contains(failure.Reason, "longer than a line") {
				t.Errorf("%s: %v", login, err)
			}
		}
		if lines := f.received("AUTH"); len(lines) != 0 {
			t.Errorf("%d lines", len(lines))
		}
		if _, err := verify(t, s, "alice", strings.Repeat("x", most*3/4-400)); len(f.received("AUTH")) != 1 {
			t.Errorf("a password that fits: %v", err)
		}
	}
}

func TestSecuredIsSentWithTLSOnly(t *testing.T) {
	f := startFake(t, goodGreeting, knowsAlice)
	if _, err := f.store(t).VerifyPassword(t.Context(), &auth.Peer{}, "alice", "secret"); err != nil {
		t.Fatal(err)
	}
	wantLine(t, f.received("AUTH"), "AUTH\t1\tPLAIN\tservice=smtp\tnologin\tno-penalty\tresp=AGFsaWNlAHNlY3JldA==\n")
}

// Dovecot may answer requests in any order.
func TestAnswersOutOfOrder(t *testing.T) {
	const logins = 50
	var mu sync.Mutex
	var waiting []string
	f := startFake(t, goodGreeting, func(w io.Writer, fields []string) {
		if fields[0] != "AUTH" {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if waiting = append(waiting, fields[1]); len(waiting) == logins {
			for _, id := range waiting {
				defer fmt.Fprintf(w, "OK\t%s\tuser=user%s\n", id, id)
			}
		}
	})
	s := f.store(t)
	seen := make(chan string, logins)
	var all sync.WaitGroup
	for range logins {
		all.Go(func() {
			id, err := verify(t, s, "x", "y")
			if err != nil {
				t.Error(err)
			}
			seen <- id.User
		})
	}
	all.Wait()
	close(seen)
	users := make(map[string]bool)
	for user := range seen {
		users[user] = true
	}
	if len(users) != logins {
		t.Errorf("%d logins found %d users", logins, len(users))
	}
}

func TestPlainNotOffered(t *testing.T) {
	f := startFake(t, "VERSION\t1\t2\nMECH\tCRAM-MD5\nDONE\n", knowsAlice)
	_, err := verify(t, f.store(t), "alice", "secret")
	if !errors.Is(err, errNoPlain) || errors.Is(err, auth.ErrMechanism) {
		t.Error(err)
	}
}

func TestDownAndBack(t *testing.T) {
	f := startFake(t, goodGreeting, knowsAlice)
	s := f.store(t)
	if _, err := verify(t, s, "alice", "secret"); err != nil {
		t.Fatal(err)
	}
	f.stop()
	kit.Eventually(t, "the loss of the connection", func() bool { _, err := verify(t, s, "alice", "secret"); return isUnavailable(err) })
	if _, err := verify(t, s, "alice", "secret"); !isUnavailable(err) {
		t.Errorf("while Dovecot is down: %v", err)
	}
	f.listen(t, goodGreeting, knowsAlice)
	kit.Eventually(t, "the recovery", func() bool { _, err := verify(t, s, "alice", "secret"); return err == nil })
}

func isUnavailable(err error) bool {
	_, ok := errors.AsType[*auth.Unavailable](err)
	return ok
}

// While Dovecot is down, attempts to connect are delayed.
func TestBackOff(t *testing.T) {
	f := startFake(t, "garbage\n", nil)
	s := f.store(t)
	for range 200 {
		if _, err := verify(t, s, "alice", "secret"); !isUnavailable(err) {
			t.Fatalf("with garbage for a greeting: %v", err)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.conns); n > 20 {
		t.Errorf("%d connections for 200 logins", n)
	}
}

// If Dovecot does not answer, logins fail at their deadline, and there is only one
// connection at a time.
func TestHang(t *testing.T) {
	f := startFake(t, goodGreeting, nil)
	s := f.store(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := s.VerifyPassword(ctx, peer(), "alice", "secret"); !isUnavailable(err) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v", err)
			}
		})
	}
	all.Wait()
	// No line was received on that connection, so the next login gets a new one.
	ctx, cancel = context.WithCancel(t.Context())
	all.Go(func() { _, _ = s.VerifyPassword(ctx, peer(), "alice", "secret") })
	kit.Eventually(t, "another login", func() bool { return len(f.received("AUTH")) == 21 })
	cancel()
	all.Wait()
	if n := len(f.received("VERSION")); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
}

// A slow answer does not end the connection for other logins.
func TestSlowAnswer(t *testing.T) {
	f := startFake(t, goodGreeting, func(w io.Writer, fields []string) {
		if fields[0] == "AUTH" && fields[1] != "1" {
			knowsAlice(w, fields)
		}
	})
	s := f.store(t)
	ctx, cancel := context.WithCancel(t.Context())
	slow := make(chan error)
	go func() {
		_, err := s.VerifyPassword(ctx, peer(), "slow", "secret")
		slow <- err
	}()
	kit.Eventually(t, "the slow login", func() bool { return len(f.received("AUTH")) == 1 })
	for range 10 {
		if _, err := verify(t, s, "alice", "secret"); err != nil {
			t.Error(err)
		}
	}
	cancel()
	if err := <-slow; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	kit.Eventually(t, "CANCEL", func() bool { return len(f.received("CANCEL")) == 1 })
	wantLine(t, f.received("CANCEL"), "CANCEL\t1\n")
	if n := len(f.received("VERSION")); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// After Reload the next login uses a new connection, and the current one is completed.
func TestReload(t *testing.T) {
	release := make(chan bool)
	f := startFake(t, goodGreeting, func(w io.Writer, fields []string) {
		if fields[0] == "AUTH" {
			if resp, _ := params(fields).get("resp"); resp == "AHNsb3cAc2VjcmV0" {
				<-release
			}
			send("OK\t%ID\tuser=u\n")(w, fields)
		}
	})
	s := f.store(t)
	old := make(chan error)
	go func() {
		_, err := verify(t, s, "slow", "secret")
		old <- err
	}()
	kit.Eventually(t, "the slow login", func() bool { return len(f.received("AUTH")) == 1 })
	if err := s.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := verify(t, s, "alice", "secret"); err != nil {
		t.Error(err)
	}
	if n := len(f.received("VERSION")); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
	close(release)
	if err := <-old; err != nil {
		t.Errorf("the login on the old connection: %v", err)
	}
}

func TestClose(t *testing.T) {
	f := startFake(t, goodGreeting, nil)
	s := New(Config{Path: Address{"unix", f.path}}, auth.NewLog(slog.New(slog.DiscardHandler)))
	waiting := make(chan error)
	go func() {
		_, err := verify(t, s, "alice", "secret")
		waiting <- err
	}()
	kit.Eventually(t, "the login", func() bool { return len(f.received("AUTH")) == 1 })
	s.Close()
	if err := <-waiting; !errors.Is(err, errClosed) {
		t.Error(err)
	}
	if _, err := verify(t, s, "alice", "secret"); !errors.Is(err, errClosed) {
		t.Error(err)
	}
}

// The loss of a connection that has been replaced does not affect the new one.
func TestOldConnectionBreaks(t *testing.T) {
	f := startFake(t, goodGreeting, func(w io.Writer, fields []string) {
		if resp, _ := params(fields).get("resp"); resp != "AHNsb3cAc2VjcmV0" {
			knowsAlice(w, fields)
		}
	})
	s := f.store(t)
	slow := make(chan error)
	go func() {
		_, err := verify(t, s, "slow", "secret")
		slow <- err
	}()
	kit.Eventually(t, "the slow login", func() bool { return len(f.received("AUTH")) == 1 })
	s.link.mu.Lock()
	old := s.link.current
	s.link.mu.Unlock()
	if err := s.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := verify(t, s, "alice", "secret"); err != nil {
		t.Fatal(err)
	}
	old.end(io.ErrUnexpectedEOF)
	if err := <-slow; !isUnavailable(err) {
		t.Errorf("the login on the old connection: %v", err)
	}
	for range 20 {
		if _, err := verify(t, s, "alice", "secret"); err != nil {
			t.Errorf("a login on the new connection: %v", err)
		}
	}
}
