package dovecot

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/server/auth"
	"postern/test/kit"
)

func TestMechanisms(t *testing.T) {
	f := startFake(t, goodGreeting, nil)
	p := f.proxy(t)
	tests := []struct {
		options auth.SecurityOptions
		want    []string
	}{
		{auth.DefaultSecurityOptions(), []string{"PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256"}},
		{auth.SecurityOptions{auth.NoPlaintext, auth.NoAnonymous}, []string{"CRAM-MD5", "SCRAM-SHA-256"}},
		{auth.SecurityOptions{auth.MutualAuth}, []string{"SCRAM-SHA-256"}},
		{auth.SecurityOptions{auth.ForwardSecrecy}, nil},
		{nil, []string{"PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256", "ANONYMOUS"}},
	}
	for _, tt := range tests {
		p.Options = tt.options
		if got := p.Mechanisms(peer()); !slices.Equal(got, tt.want) {
			t.Errorf("%v: %q, want %q", tt.options, got, tt.want)
		}
		if got := p.Mechanisms(&auth.Peer{}); got != nil {
			t.Errorf("%v: without TLS %q", tt.options, got)
		}
	}
	for _, mech := range []string{"EXTERNAL", "APOP", "SCRAM-SHA-256-PLUS", "NTLM", "", "PLAIN\nX"} {
		if _, err := p.Start(t.Context(), peer(), mech); !errors.Is(err, auth.ErrMechanism) {
			t.Errorf("Start with %q: %v", mech, err)
		}
	}
}

// Before the first greeting of Dovecot there is a default list, and later the last list.
func TestMechanismsWhileDown(t *testing.T) {
	f := startFake(t, goodGreeting, nil)
	f.lis.Close()
	p := Proxy{Store: f.store(t), Throttle: newThrottle(), Options: auth.DefaultSecurityOptions(), Calls: auth.NewCalls(kit.Patience, 20)}
	if got := p.Mechanisms(peer()); !slices.Equal(got, []string{"PLAIN", "LOGIN"}) {
		t.Errorf("never seen: %q", got)
	}
	if _, _, err := startAndSend(t, p, "LOGIN", nil); !isUnavailable(err) {
		t.Errorf("never seen: %v", err)
	}
	p.Options = append(p.Options, auth.NoPlaintext)
	if got := p.Mechanisms(peer()); got != nil {
		t.Errorf("never seen, noplaintext: %q", got)
	}
	f.listen(t, goodGreeting, nil)
	kit.Eventually(t, "the connection", func() bool { return slices.Contains(p.Mechanisms(peer()), "SCRAM-SHA-256") })
	f.stop()
	kit.Eventually(t, "the loss", func() bool { _, _, err := startAndSend(t, p, "SCRAM-SHA-256", []byte("x")); return err != nil })
	if got := p.Mechanisms(peer()); !slices.Equal(got, []string{"CRAM-MD5", "SCRAM-SHA-256"}) {
		t.Errorf("seen before: %q", got)
	}
}

// startAndSend starts an exchange and sends its first response.
func startAndSend(t *testing.T, p Proxy, mech string, response []byte) (challenge []byte, done bool, err error) {
	t.Helper()
	x, err := p.Start(t.Context(), peer(), mech)
	if err != nil {
		return nil, false, err
	}
	defer x.Close()
	return x.Next(t.Context(), response)
}

// A step is a response of the client and its result. A nil response differs from an
// empty one.
type step struct {
	response  []byte
	challenge string
	done      bool
	err       error
}

// Messages are forwarded unchanged in both directions.
func TestExchanges(t *testing.T) {
	empty := []byte{}
	tests := []struct {
		name, mech string
		answers    []string // of Dovecot, in order
		steps      []step
		lines      []string // sent to Dovecot: the parameter resp of AUTH, or the data of CONT
	}{
		{"PLAIN", "PLAIN", []string{"OK\t%ID\tuser=u\n"},
			[]step{{response: []byte("\x00u\x00p"), done: true}}, []string{"resp=AHUAcA=="}},
		{"PLAIN without initial response", "PLAIN", []string{"CONT\t%ID\t\n", "OK\t%ID\tuser=u\n"},
			[]step{{response: nil}, {response: []byte("\x00u\x00p"), done: true}}, []string{"", "AHUAcA=="}},
		{"LOGIN", "LOGIN", []string{"CONT\t%ID\tVXNlcm5hbWU6\n", "CONT\t%ID\tUGFzc3dvcmQ6\n", "OK\t%ID\tuser=u\n"},
			[]step{{response: nil, challenge: "Username:"}, {response: []byte("u"), challenge: "Password:"}, {response: []byte("p"), done: true}},
			[]string{"", "dQ==", "cA=="}},
		{"empty initial response", "LOGIN", []string{"CONT\t%ID\tVXNlcm5hbWU6\n"},
			[]step{{response: empty, challenge: "Username:"}}, []string{"resp=="}},
		{"last message by challenge", "SCRAM-SHA-256", []string{"CONT\t%ID\tcg==\n", "CONT\t%ID\tdg==\n", "OK\t%ID\tuser=u\n"},
			[]step{{response: []byte("n,,n=u,r=1"), challenge: "r"}, {response: []byte("c"), challenge: "v"}, {response: empty, done: true}},
			[]string{"resp=biwsbj11LHI9MQ==", "Yw==", ""}},
		{"last message with OK", "SCRAM-SHA-256", []string{"CONT\t%ID\tcg==\n", "OK\t%ID\tuser=u\tresp=dg==\n"},
			[]step{{response: []byte("n,,n=u,r=1"), challenge: "r"}, {response: []byte("c"), challenge: "v"}, {response: empty, done: true}},
			[]string{"resp=biwsbj11LHI9MQ==", "Yw=="}},
		{"last message answered with something", "SCRAM-SHA-256", []string{"OK\t%ID\tuser=u\tresp=dg==\n"},
			[]step{{response: []byte("n,,n=u,r=1"), challenge: "v"}, {response: []byte("x"), err: auth.ErrMalformed}, {response: empty, err: auth.ErrMalformed}},
			[]string{"resp=biwsbj11LHI9MQ=="}},
		{"after the end", "PLAIN", []string{"FAIL\t%ID\n"},
			[]step{{response: []byte("\x00u\x00p"), err: &auth.Failure{}}, {response: []byte("\x00u\x00p"), err: auth.ErrMalformed}},
			[]string{"resp=AHUAcA=="}},
		{"two answers", "LOGIN", []string{"CONT\t%ID\tVXNlcm5hbWU6\nOK\t%ID\tuser=mallory\n"},
			[]step{{response: nil, challenge: "Username:"}, {response: []byte("u"), err: &auth.Unavailable{}}}, []string{""}},
		{"control character", "LOGIN", []string{"CONT\t%ID\tVXNlcm5hbWU6\n"},
			[]step{{response: nil, challenge: "Username:"}, {response: []byte("a\tb"), err: &auth.Failure{}}}, []string{""}},
		{"too long", "CRAM-MD5", []string{"CONT\t%ID\tPDE+\n"},
			[]step{{response: nil, challenge: "<1>"}, {response: make([]byte, maxLine), err: &auth.Failure{}}}, []string{""}},
		{"too long a password", "PLAIN", nil,
			[]step{{response: []byte("\x00u\x00" + strings.Repeat("p", maxLine)), err: &auth.Failure{}}}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := startFake(t, goodGreeting, inOrder(tt.answers))
			p := f.proxy(t)
			x, err := p.Start(t.Context(), peer(), tt.mech)
			if err != nil {
				t.Fatal(err)
			}
			defer x.Close()
			for _, s := range tt.steps {
				s.run(t, x)
				if s.done && x.Identity() != (auth.Identity{User: "u", As: "u", Mechanism: tt.mech, Store: Kind}) {
					t.Errorf("identity %+v", x.Identity())
				}
			}
			if got := f.responses(); !slices.Equal(got, tt.lines) {
				t.Errorf("Dovecot received %q, want %q", got, tt.lines)
			}
		})
	}
}

// Dovecot may end an exchange while it is the client's turn. Whether the challenge before
// it still arrives depends on timing; the exchange fails in either case.
func TestDovecotEndsExchange(t *testing.T) {
	f := startFake(t, goodGreeting, inOrder([]string{"CONT\t%ID\tVXNlcm5hbWU6\nFAIL\t%ID\ttemp\n"}))
	x, err := f.proxy(t).Start(t.Context(), peer(), "LOGIN")
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	challenge, done, err := x.Next(t.Context(), nil)
	if err == nil {
		if string(challenge) != "Username:" || done {
			t.Errorf("%q, %v", challenge, done)
		}
		_, done, err = x.Next(t.Context(), []byte("u"))
	}
	if _, ok := errors.AsType[*auth.Unavailable](err); !ok || done {
		t.Errorf("done %v, %v; want *auth.Unavailable", done, err)
	}
}

func (s step) run(t *testing.T, x auth.Exchange) {
	t.Helper()
	// Wait for the second of two answers, which ends the connection.
	if _, ok := s.err.(*auth.Unavailable); ok {
		<-x.(*exchange).request.conn.done
	}
	challenge, done, err := x.Next(t.Context(), s.response)
	if string(challenge) != s.challenge || done != s.done || !sameKind(err, s.err) {
		t.Errorf("%q: %q, %v, %v; want %q, %v, %v", s.response, challenge, done, err, s.challenge, s.done, s.err)
	}
}

func sameKind(got, want error) bool {
	switch want.(type) {
	case nil:
		return got == nil
	case *auth.Failure:
		_, ok := errors.AsType[*auth.Failure](got)
		return ok
	case *auth.Unavailable:
		return isUnavailable(got)
	}
	return errors.Is(got, want)
}

// inOrder returns a script that sends the answers in order, one for each line.
func inOrder(answers []string) script {
	var mu sync.Mutex
	return func(w io.Writer, fields []string) {
		mu.Lock()
		defer mu.Unlock()
		if len(answers) > 0 && fields[0] != "CANCEL" {
			send(answers[0])(w, fields)
			answers = answers[1:]
		}
	}
}

// responses returns the client's messages as Dovecot received them.
func (f *fake) responses() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var found []string
	for _, line := range f.lines {
		switch fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t"); fields[0] {
		case "AUTH":
			last := fields[len(fields)-1]
			if !strings.HasPrefix(last, "resp=") {
				last = ""
			}
			found = append(found, last)
		case "CONT":
			found = append(found, fields[2])
		}
	}
	return found
}

// A client that disconnects, at any time, leaves no request open. A message that Dovecot has
// received gets its answer first.
func TestAbandoned(t *testing.T) {
	var mu sync.Mutex
	released := false
	var held []func()
	f := startFake(t, goodGreeting, func(w io.Writer, fields []string) {
		mu.Lock()
		defer mu.Unlock()
		answer := func() { send("CONT\t%ID\tVXNlcm5hbWU6\n")(w, fields) }
		switch {
		case fields[0] == "CONT" && !released:
			held = append(held, answer)
		case fields[0] != "CANCEL":
			answer()
		}
	})
	p := f.proxy(t)
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			x, err := p.Start(t.Context(), clientAt(i), "LOGIN")
			if err != nil {
				t.Error(err)
				return
			}
			if _, _, err := x.Next(t.Context(), nil); err != nil {
				t.Error(err)
			}
			if i%2 == 0 { // while a request to Dovecot is open
				time.AfterFunc(10*time.Millisecond, cancel)
				if _, _, err := x.Next(ctx, []byte("u")); !errors.Is(err, auth.ErrPending) && !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			}
			x.Close()
		})
	}
	all.Wait()
	mu.Lock()
	released = true
	for _, answer := range held {
		answer()
	}
	mu.Unlock()
	kit.Eventually(t, "50 times CANCEL", func() bool { return len(f.received("CANCEL")) == 50 })
	c, err := p.link.connection(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.requests) != 0 {
		t.Errorf("%d requests are still open", len(c.requests))
	}
}

// An exchange whose time is over is cancelled at Dovecot even if the client is silent, and
// does not continue afterwards.
func TestExchangeExpires(t *testing.T) {
	f := startFake(t, goodGreeting, send("CONT\t%ID\tVXNlcm5hbWU6\n"))
	x, err := f.proxy(t).Start(t.Context(), peer(), "LOGIN")
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	if _, _, err := x.Next(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	x.(*exchange).deadline = time.Now()
	x.(*exchange).expiry.Reset(0)
	kit.Eventually(t, "CANCEL", func() bool { return len(f.received("CANCEL")) == 1 })
	if _, done, err := x.Next(t.Context(), []byte("u")); done || !isUnavailable(err) || !errors.Is(err, errExchangeTime) {
		t.Errorf("done %v, %v; want %v", done, err, errExchangeTime)
	}
}

// clientAt returns a client with a different address for each n.
func clientAt(n int) *auth.Peer {
	p := peer()
	p.Remote = netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(n)}), 50000)
	return p
}

// If Dovecot hangs, the step fails at its timeout, and the exchange of another session
// continues.
func TestStepTimesOut(t *testing.T) {
	f := startFake(t, goodGreeting, func(w io.Writer, fields []string) {
		if fields[0] == "AUTH" && fields[1] == "1" {
			send("CONT\t%ID\tVXNlcm5hbWU6\n")(w, fields)
		}
		if fields[0] == "CONT" {
			send("OK\t%ID\tuser=u\n")(w, fields)
		}
	})
	p := f.proxy(t)
	other, err := p.Start(t.Context(), clientAt(1), "LOGIN")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, _, err := other.Next(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	time.Sleep(10 * time.Millisecond)
	p.Calls = auth.NewCalls(shortTimeout, 20)
	if _, _, err := startAndSend(t, p, "PLAIN", []byte("\x00u\x00p")); !errors.Is(err, auth.ErrSlow) {
		t.Errorf("%v", err)
	}
	if _, done, err := other.Next(t.Context(), []byte("u")); !done || err != nil {
		t.Errorf("the exchange on the old connection: %v, %v", done, err)
	}
}

func TestObservedLogin(t *testing.T) {
	tests := []struct {
		mech            string
		messages        []string
		login, password string
	}{
		{"PLAIN", []string{"\x00alice\x00secret"}, "alice", "secret"},
		{"PLAIN", []string{"", "bob\x00alice\x00secret"}, "alice", "secret"},
		{"PLAIN", []string{"alice\x00secret"}, "", ""},
		{"PLAIN", []string{"\x00alice\x00sec\x00ret"}, "", ""},
		{"LOGIN", []string{"", "alice", "secret"}, "alice", "secret"},
		{"LOGIN", []string{"alice", "secret"}, "alice", "secret"},
		{"SCRAM-SHA-256", []string{"n,,n=a=2Cb=3Dc,r=1", "c=biws"}, "a,b=c", ""},
		{"SCRAM-SHA-1", []string{"y,a=bob,n=alice,r=1"}, "alice", ""},
		{"SCRAM-SHA-256", []string{"n,,m=x,n=alice,r=1"}, "", ""},
		{"SCRAM-SHA-256", []string{"n,,n=alice"}, "", ""},
		{"CRAM-MD5", []string{"alice 0123"}, "alice", ""},
		{"CRAM-MD5", []string{"ignored 0", "alice b 0123"}, "alice b", ""},
		{"CRAM-MD5", []string{"alice"}, "", ""},
		{"DIGEST-MD5", []string{`username="alice"`}, "", ""},
	}
	for _, tt := range tests {
		o := observed{mech: tt.mech}
		for _, m := range tt.messages {
			if err := o.add([]byte(m)); err != nil {
				t.Errorf("%s %q: %v", tt.mech, m, err)
			}
		}
		if o.login != tt.login || o.password != tt.password {
			t.Errorf("%s %q: %q and %q", tt.mech, tt.messages, o.login, o.password)
		}
	}
}

// Errors contain no password.
func TestErrorsKeepSecrets(t *testing.T) {
	f := startFake(t, goodGreeting, send("x\n"))
	p := f.proxy(t)
	p.Calls = auth.NewCalls(shortTimeout, 20)
	message := []byte("\x00alice\x00geheim")
	_, _, err := startAndSend(t, p, "PLAIN", message)
	u, ok := errors.AsType[*auth.Unavailable](err)
	if !ok || u.Login != "alice" || u.Store != Kind {
		t.Fatalf("%#v", err)
	}
	if s := err.Error(); strings.Contains(s, "geheim") || strings.Contains(s, base64.StdEncoding.EncodeToString(message)) {
		t.Error(s)
	}
}
