package dovecot

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/server/auth"
	"postern/test/kit"
)

// If Dovecot sends anything but a valid answer, the login fails with a temporary error.
func TestHostileAnswers(t *testing.T) {
	tests := map[string]string{
		"garbage":           strings.Repeat("\x80\x00garbage\n", 2*maxStrays),
		"a megabyte":        strings.Repeat("x", 1<<20) + "\n",
		"a long OK":         "OK\t%ID\tuser=" + strings.Repeat("x", 1<<20) + "\n",
		"another number":    "OK\t4711\tuser=mallory\n",
		"number 0":          "OK\t0\tuser=mallory\n",
		"no number":         "OK\tuser=mallory\n",
		"a negative number": "OK\t-%ID\tuser=mallory\n",
		"OK without a user": "OK\t%ID\n",
		"a challenge":       "CONT\t%ID\t\n",
		"invalid challenge": "CONT\t%ID\n",
		"other case":        "ok\t%ID\tuser=mallory\n" + strings.Repeat("\n", 2*maxStrays),
		"a second greeting": strings.Repeat(goodGreeting, maxStrays),
		"challenge, OK":     "CONT\t%ID\t\nOK\t%ID\tuser=mallory\n",
		"OK in two lines":   "OK\n%ID\tuser=mallory\n",
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			f := startFake(t, goodGreeting, send(text))
			id, err := verify(t, f.store(t), "alice", "secret")
			if !isUnavailable(err) || id != (auth.Identity{}) {
				t.Errorf("%+v and %v", id, err)
			}
		})
	}
}

// Dovecot closes the connection at every point of its greeting and its answer.
func TestHangUp(t *testing.T) {
	answer := "OK\t1\tuser=alice\n"
	for cut := range len(goodGreeting) {
		if id, err := login(t, goodGreeting[:cut], answer); err == nil {
			t.Errorf("greeting cut at %d: %+v", cut, id)
		}
	}
	for cut := range len(answer) {
		if id, err := login(t, goodGreeting, answer[:cut]); err == nil {
			t.Errorf("answer cut at %d: %+v", cut, id)
		}
	}
	if id, err := login(t, goodGreeting, answer); err != nil || id.User != "alice" {
		t.Errorf("nothing cut: %+v and %v", id, err)
	}
}

// login verifies a password with a Dovecot that sends greeting, then answer for the
// request, and closes the connection.
func login(t *testing.T, greeting, answer string) (auth.Identity, error) {
	t.Helper()
	client, server := net.Pipe()
	done := make(chan struct{})
	defer func() { <-done }()
	defer client.Close()
	go func() {
		defer close(done)
		serveOnce(server, greeting, answer)
	}()
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	c, err := greet(ctx, client)
	if err != nil {
		return auth.Identity{}, err
	}
	s := &Store{link: newLink(Address{}, auth.NewLog(slog.New(slog.DiscardHandler)))}
	defer s.Close()
	s.link.mu.Lock()
	s.link.current = c
	s.link.reason, s.link.retry = io.EOF, time.Now().Add(time.Hour) // there is no second connection
	s.link.serve(c)
	s.link.mu.Unlock()
	return s.VerifyPassword(ctx, peer(), "alice", "secret")
}

func serveOnce(n net.Conn, greeting, answer string) {
	defer n.Close()
	in := bufio.NewReader(n)
	for range 2 { // VERSION and CPID
		_, _ = in.ReadString('\n')
	}
	if _, err := io.WriteString(n, greeting); err != nil {
		return
	}
	// A client that waits for the rest of the greeting sends no request.
	if !strings.Contains(greeting, "\nDONE\n") {
		return
	}
	if _, err := in.ReadString('\n'); err == nil {
		_, _ = io.WriteString(n, answer) // fails if the client has closed the connection
	}
}

// A repeated answer, or one to an exchange that has ended, does not affect other
// exchanges.
func TestDuplicateAnswers(t *testing.T) {
	f := startFake(t, goodGreeting, func(w io.Writer, fields []string) {
		switch {
		case fields[0] == "AUTH" && fields[1] == "1":
			send("OK\t%ID\tuser=alice\n", "OK\t%ID\tuser=alice\n", "FAIL\t%ID\n")(w, fields)
		case fields[0] == "AUTH":
			send("OK\t1\tuser=alice\n", "FAIL\t%ID\n")(w, fields)
		}
	})
	s := f.store(t)
	if _, err := verify(t, s, "alice", "secret"); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		_, err := verify(t, s, "mallory", "guess")
		if _, ok := errors.AsType[*auth.Failure](err); !ok {
			t.Errorf("%v", err)
		}
	}
}

// If Dovecot does not read, logins fail at their deadline.
func TestDovecotDoesNotRead(t *testing.T) {
	f := startFake(t, goodGreeting, func(io.Writer, []string) { time.Sleep(300 * time.Millisecond) })
	s := f.store(t)
	password := strings.Repeat("x", 8000)
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			if _, err := s.VerifyPassword(ctx, peer(), "alice", password); !isUnavailable(err) {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// If the greeting does not end, logins fail at their deadline, and the store can be
// closed.
func TestEndlessGreeting(t *testing.T) {
	f := startFake(t, "VERSION\t1\t2\nMECH\tPLAIN\n", nil)
	s := f.store(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := s.VerifyPassword(ctx, peer(), "alice", "secret"); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
