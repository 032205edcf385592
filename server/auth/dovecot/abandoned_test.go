package dovecot

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/server/auth"
	"postern/server/auth/throttle"
	"postern/test/kit"
)

// A slowDovecot answers when the test says so.
type slowDovecot struct {
	*fake
	answers chan string // for the next password
}

// startSlow starts a fake that asks for the name and the password at once.
func startSlow(t *testing.T) *slowDovecot {
	d := &slowDovecot{answers: make(chan string)}
	d.fake = startFake(t, goodGreeting, func(w io.Writer, fields []string) {
		switch {
		case fields[0] == "CANCEL":
		case strings.HasSuffix(fields[len(fields)-1], base64.StdEncoding.EncodeToString([]byte("\x00carol\x00hangs"))):
		case fields[0] == "AUTH" && fields[2] != "PLAIN" && !strings.Contains(fields[len(fields)-1], "resp="):
			send("CONT\t%ID\tVXNlcm5hbWU6\n")(w, fields)
		case fields[0] == "CONT" && fields[2] == base64.StdEncoding.EncodeToString([]byte("u")):
			send("CONT\t%ID\tUGFzc3dvcmQ6\n")(w, fields)
		default:
			send(<-d.answers)(w, fields)
		}
	})
	return d
}

// A reporter is the session of an exchange.
type reporter struct {
	mu       sync.Mutex
	held     int
	reported []string
}

func (r *reporter) peer(n int) *auth.Peer {
	p := clientAt(n)
	count := func(by int) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.held += by
	}
	p.Background = &auth.Background{
		Context: context.Background(),
		Hold: func() func() {
			count(1)
			return func() { count(-1) }
		},
		Report: func(id auth.Identity, err error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			f, _ := errors.AsType[*auth.Failure](err)
			u, _ := errors.AsType[*auth.Unavailable](err)
			switch {
			case f != nil:
				r.reported = append(r.reported, "no: "+f.Login)
			case u != nil:
				r.reported = append(r.reported, fmt.Sprintf("no verdict: %s, counted %v", u.Login, u.Unanswered))
			case err != nil:
				r.reported = append(r.reported, err.Error())
			default:
				r.reported = append(r.reported, "yes: "+id.User)
			}
		},
	}
	return p
}

func (r *reporter) wait(t *testing.T, want ...string) {
	t.Helper()
	kit.Eventually(t, "the report "+strings.Join(want, ", "), func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return slices.Equal(r.reported, want) && r.held == 0
	})
}

// impatient is a throttle that refuses every login that would have to wait.
func impatient() *throttle.Throttle {
	return throttle.New(throttle.Config{MaxWait: 200 * time.Millisecond})
}

// hasPenalty reports whether a new login from the client would have to wait.
func hasPenalty(t *testing.T, p Proxy, peer *auth.Peer) bool {
	t.Helper()
	a, err := p.Throttle.Acquire(t.Context(), peer.Remote.Addr(), "another login")
	if err != nil {
		return true
	}
	a.Yield()
	return false
}

// guess sends the messages, hangs up after the last one is at Dovecot, and closes the exchange.
func (d *slowDovecot) guess(t *testing.T, p Proxy, peer *auth.Peer, mech string, messages ...string) {
	t.Helper()
	x, err := p.Start(t.Context(), peer, mech)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	received := func() int { return len(d.received("AUTH")) + len(d.received("CONT")) }
	ctx, hangUp := context.WithCancel(t.Context())
	defer hangUp()
	for i, m := range messages {
		var response []byte
		if m != "<nil>" {
			response = []byte(m)
		}
		if i < len(messages)-1 {
			if _, _, err := x.Next(t.Context(), response); err != nil {
				t.Fatal(err)
			}
			continue
		}
		before := received()
		go func() {
			kit.Eventually(t, "Dovecot has the message", func() bool { return received() > before })
			hangUp()
		}()
		if _, _, err := x.Next(ctx, response); !errors.Is(err, auth.ErrPending) {
			t.Errorf("%s: %v, want ErrPending", mech, err)
		}
	}
}

// A client that hangs up before Dovecot's answer pays for a no and not for a yes, with every
// mechanism. Dovecot's request is not cancelled meanwhile.
func TestVerdictAfterTheClientHasGone(t *testing.T) {
	tests := []struct {
		mech     string
		messages []string
		answer   string
		want     string
		penalty  bool
	}{
		{"PLAIN", []string{"\x00alice\x00guess"}, "FAIL\t%ID\tuser=alice\n", "no: alice", true},
		{"PLAIN", []string{"\x00alice\x00secret"}, "OK\t%ID\tuser=alice\n", "yes: alice", false},
		{"PLAIN", []string{"\x00alice\x00secret"}, "FAIL\t%ID\tuser=alice\tcode=user_disabled\n", "no: alice", false},
		{"PLAIN", []string{"\x00alice\x00secret"}, "FAIL\t%ID\tuser=alice\ttemp\n", "no verdict: alice, counted false", false},
		{"LOGIN", []string{"<nil>", "u", "guess"}, "FAIL\t%ID\tuser=u\n", "no: u", true},
		{"LOGIN", []string{"<nil>", "u", "secret"}, "OK\t%ID\tuser=u\n", "yes: u", false},
		{"SCRAM-SHA-256", []string{"n,,n=alice,r=1"}, "CONT\t%ID\tcg==\n", auth.ErrContinue.Error(), false},
		{"SCRAM-SHA-256", []string{"n,,n=alice,r=1"}, "FAIL\t%ID\tuser=alice\n", "no: alice", true},
		{"CRAM-MD5", []string{"<nil>", "alice 0123"}, "FAIL\t%ID\n", "no: alice", true},
	}
	for i, tt := range tests {
		t.Run(fmt.Sprint(tt.mech, " ", tt.want), func(t *testing.T) {
			d := startSlow(t)
			p := d.proxy(t)
			p.Throttle = impatient()
			s := new(reporter)
			d.guess(t, p, s.peer(i), tt.mech, tt.messages...)
			if n := len(d.received("CANCEL")); n != 0 {
				t.Errorf("%d CANCEL before the verdict", n)
			}
			d.answers <- tt.answer
			s.wait(t, tt.want)
			if got := hasPenalty(t, p, s.peer(i)); got != tt.penalty {
				t.Errorf("penalty %v, want %v", got, tt.penalty)
			}
			c, err := p.link.connection(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			kit.Eventually(t, "no open request", func() bool {
				c.mu.Lock()
				defer c.mu.Unlock()
				return len(c.requests) == 0
			})
		})
	}
}

// Without an answer of Dovecot, the address pays once while Dovecot answers others. The
// challenge that asks for a name is no such answer.
func TestDovecotGivesNoVerdict(t *testing.T) {
	for _, answersOthers := range []bool{true, false} {
		d := startSlow(t)
		p := d.proxy(t)
		p.Throttle, p.Calls = impatient(), auth.NewCalls(4*shortTimeout, 20)
		s := new(reporter)
		d.guess(t, p, s.peer(1), "PLAIN", "\x00carol\x00hangs")
		if answersOthers {
			go func() { d.answers <- "FAIL\t%ID\tuser=bob\n" }()
			if _, _, err := startAndSend(t, p, "PLAIN", []byte("\x00bob\x00guess")); !is[*auth.Failure](err) {
				t.Fatal(err)
			}
		} else {
			x, err := p.Start(t.Context(), s.peer(2), "LOGIN")
			if err != nil {
				t.Fatal(err)
			}
			defer x.Close()
			for _, m := range [][]byte{nil, []byte("u")} {
				if _, _, err := x.Next(t.Context(), m); err != nil {
					t.Fatal(err)
				}
			}
		}
		s.wait(t, fmt.Sprintf("no verdict: carol, counted %v", answersOthers))
		if got := hasPenalty(t, p, s.peer(1)); got != answersOthers {
			t.Errorf("Dovecot answers others %v: penalty %v", answersOthers, got)
		}
		kit.Eventually(t, "CANCEL", func() bool { return len(d.received("CANCEL")) > 0 })
	}
}

// exempt has the addresses of clientAt, so that the throttle does not bound their number.
var exempt = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}

// The steps of all exchanges share the slots: one address has a quarter of them.
func TestStepsAreBounded(t *testing.T) {
	var mu sync.Mutex
	asked := make(map[string]int)
	f := startFake(t, goodGreeting, func(_ io.Writer, fields []string) {
		if fields[0] != "AUTH" {
			return
		}
		resp, _ := params(fields).get("resp")
		message, _ := base64.StdEncoding.DecodeString(resp)
		mu.Lock()
		defer mu.Unlock()
		asked[string(message)]++
	})
	p := f.proxy(t)
	p.Throttle = throttle.New(throttle.Config{MaxWait: time.Minute, Exempt: exempt})
	p.Calls = auth.NewCalls(kit.Patience, 8)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var all sync.WaitGroup
	s := new(reporter)
	count := func() (n int) {
		mu.Lock()
		defer mu.Unlock()
		return len(asked)
	}
	down, stop := context.WithCancel(context.Background())
	try := func(n, user int) {
		all.Go(func() {
			peer := s.peer(n)
			peer.Background.Context = down
			x, err := p.Start(t.Context(), peer, "PLAIN")
			if err != nil {
				t.Error(err)
				return
			}
			defer x.Close()
			_, _, _ = x.Next(ctx, fmt.Appendf(nil, "\x00user%d\x00guess", user))
		})
	}
	for i := range 6 {
		try(1, i)
	}
	kit.Eventually(t, "two questions of the address", func() bool { return count() == 2 })
	for i := range 6 {
		try(2+i, 100+i)
	}
	kit.Eventually(t, "eight questions", func() bool { return count() == 8 })
	cancel()
	all.Wait()
	stop()
	kit.Eventually(t, "no question is left", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.held == 0
	})
	if count() != 8 {
		t.Errorf("Dovecot was asked %d times, want 8", count())
	}
}
