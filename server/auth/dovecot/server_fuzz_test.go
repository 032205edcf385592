package dovecot

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"postern/server/auth"
)

// Special characters in the text of a hostile Dovecot.
const (
	pause  = "|" // wait for another line of the client, or for a second without one
	thisID = "#" // the number of the exchange of the last line
)

const password = "a secret that no error contains"

// FuzzServer sends arbitrary text as a Dovecot, for a few exchanges, one after the other
// or two at once, at once or byte by byte, and then closes the connection. A user may be
// authenticated only after an OK with the number of that exchange and the user's name,
// and refused only after a FAIL. In every case all exchanges end, and no error contains
// the password or a control character.
//
// The test runs in a synctest bubble, so waiting takes no time, and a goroutine that does
// not end fails the test.
func FuzzServer(f *testing.F) {
	const hello = "VERSION\t1\t2\nMECH\tPLAIN\nMECH\tLOGIN\nMECH\tSCRAM-SHA-256\nDONE\n"
	for i, text := range []string{
		"OK\t#\tuser=alice\n", "FAIL\t#\tuser=alice\ttemp\n", "FAIL\t#\tcode=user_disabled\treason=\x1b[2J\x00\n", "OK\t2\tuser=alice\nOK\t1\n",
		"CONT\t#\t\n|CONT\t#\tVXNlcm5hbWU6\n|OK\t#\tuser=alice\n", "CONT\t#\tVXNlcm5hbWU6\n|CONT\t#\tUGFzc3dvcmQ6\n|OK\t#\tuser=a\tresp=\n",
		"CONT\t#\tcg==\n|CONT\t#\tdg==\n|OK\t#\tuser=u\n", "CONT\t#\tcg==\n|OK\t#\tuser=u\tresp=dg==\n",
		"x\n\nOK\t0#\tuser=\x01tx\n", "OK\t#\tuser=a\tnologin\tresp=", "OK\t#\tuser=a\tauth_user=b\n", "OK\t#\tuser=\t\n",
		"OK\t#\tuser=alice\n|OK\t1\tuser=alice\nFAIL\t#\n|OK\t#\tuser=eve\n", "||||OK\t#\tuser=alice\n", "OK\t#\tuser=a\nb\n", "",
		"OK\t#\tproxy\tuser=a\n", "OK\t#\tuser=" + strings.Repeat("x", 513) + "\n", strings.Repeat("x", 20000), strings.Repeat("\n", 1100),
	} {
		for _, plan := range []uint16{0, 1, 2, 3, 4, 0o5, 0o6, 0o210, 0o7654, 0o32107} {
			f.Add(hello, text, plan|uint16(i&1)<<15)
		}
	}
	f.Add("VERSION\t1\t0\nSPID\t1\n", "", uint16(1))
	f.Add("VERSION\t2\t0\nMECH\tPLAIN\nDONE\n", "OK\t1\tuser=a\n", uint16(1))
	f.Add("VERSION\t1\t2\n"+strings.Repeat("MECH\tPLAIN\n", 300), "", uint16(1))
	f.Fuzz(func(t *testing.T, hello, text string, plan uint16) {
		synctest.Test(t, func(t *testing.T) { runPlan(t, hello, text, plan) })
	})
}

// runPlan runs the exchanges of plan, which is an octal digit for each, the last digit
// first. With the highest bit Dovecot sends byte by byte.
// runPlan runs the exchanges of plan, which is an octal digit for each, the last digit
// first. With the highest bit Dovecot sends byte by byte.
func runPlan(t *testing.T, hello, text string, plan uint16) {
	near, server := net.Pipe()
	d := &hostile{conn: server, bytewise: plan>>15 == 1, ids: map[string][]uint64{}}
	over := make(chan struct{})
	go func() {
		defer close(over)
		d.serve(hello, text)
	}()
	a := &client{}
	if a.connect(near) {
		for plan &= 0x7fff; ; plan >>= 3 {
			exchanges[plan&7](a)
			if plan < 8 {
				break
			}
		}
		_ = a.proxy.Close()
	}
	near.Close()
	<-over
	for _, o := range a.outcomes {
		d.checkOutcome(t, o)
	}
}

// exchanges are the actions of a client, by their octal digit.
var exchanges = [8]func(*client){
	(*client).verify,
	func(a *client) { a.exchange("PLAIN", "\x00alice\x00"+password) },
	func(a *client) { a.exchange("LOGIN", "", "alice", password) },
	func(a *client) { a.exchange("SCRAM-SHA-256", "n,,n=alice,r=1", "c=biws,r=12,p=AA==", "") },
	func(a *client) { a.atOnce(a.verify, a.verify) },
	func(a *client) { a.exchange("PLAIN", "", "\x00alice\x00"+password) },
	func(a *client) { a.exchange("LOGIN", "") }, // and disconnects
	func(a *client) {
		a.atOnce(a.verify, func() { a.exchange("LOGIN", "alice", password) })
	},
}

// A client authenticates, and records the outcomes.
type client struct {
	proxy Proxy

	mu       sync.Mutex
	sessions int
	outcomes []outcome
}

// An outcome is the result of an exchange. One without an identity and an error is of an
// exchange that was not completed.
type outcome struct {
	session string
	id      auth.Identity
	err     error
}

// connect sets up the only connection without a dial.
func (a *client) connect(n net.Conn) bool {
	ctx, cancel := context.WithTimeout(context.Background(), dialTime)
	defer cancel()
	c, err := greet(ctx, n)
	if err != nil {
		a.outcomes = append(a.outcomes, outcome{err: unavailable(err)})
		return false
	}
	s := &Store{link: newLink(Address{}, auth.NewLog(slog.New(slog.DiscardHandler)))}
	s.link.mu.Lock()
	defer s.link.mu.Unlock()
	s.link.current = c
	s.link.mechanisms, s.link.seen = c.greeting.mechanisms, true
	s.link.reason, s.link.retry = errors.New("there is no second connection"), time.Now().Add(24*time.Hour)
	s.link.serve(c)
	a.proxy = Proxy{Store: s, Throttle: newThrottle(), Calls: auth.NewCalls(10*time.Second, 100)}
	return true
}

// peer returns a client with a new session id, which distinguishes the exchanges at
// Dovecot.
func (a *client) peer() *auth.Peer {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sessions++
	p := peer()
	p.Session = "s" + strconv.Itoa(a.sessions)
	return p
}

func (a *client) record(p *auth.Peer, id auth.Identity, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.outcomes = append(a.outcomes, outcome{p.Session, id, err})
}

func (a *client) atOnce(all ...func()) {
	var work sync.WaitGroup
	for _, do := range all {
		work.Go(do)
	}
	work.Wait()
}

func (a *client) verify() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	p := a.peer()
	id, err := a.proxy.VerifyPassword(ctx, p, "alice", password)
	a.record(p, id, err)
}

// exchange sends the responses one by one. An empty first one is a missing initial
// response.
func (a *client) exchange(mech string, responses ...string) {
	p := a.peer()
	x, err := a.proxy.Start(context.Background(), p, mech)
	if err != nil {
		return // the mechanism was not offered
	}
	defer x.Close()
	for i, response := range responses {
		message := []byte(response)
		if i == 0 && response == "" {
			message = nil
		}
		_, done, err := x.Next(context.Background(), message)
		if done || err != nil {
			a.record(p, x.Identity(), err)
			return
		}
	}
}

// A hostile Dovecot serves one connection.
type hostile struct {
	conn     net.Conn
	bytewise bool
	sent     bytes.Buffer        // after the greeting
	ids      map[string][]uint64 // numbers of the exchanges of each session
}

func (d *hostile) serve(hello, text string) {
	defer d.conn.Close()
	lines := make(chan string)
	go func() {
		defer close(lines)
		for in := bufio.NewReader(d.conn); ; {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			lines <- line
		}
	}()
	defer func() {
		d.conn.Close()
		for range lines { // until the reader ends
		}
	}()
	<-lines // VERSION
	<-lines // CPID
	if !d.send(hello) {
		return
	}
	last := ""
	for part := range strings.SplitSeq(text, pause) {
		select {
		case line, ok := <-lines:
			if !ok {
				return
			}
			last = d.receive(line)
		case <-time.After(time.Second):
		}
		part = strings.ReplaceAll(part, thisID, last)
		d.sent.WriteString(part)
		if !d.send(part) {
			return
		}
	}
}

// send returns false if the client has closed the connection.
func (d *hostile) send(text string) bool {
	if !d.bytewise {
		_, err := d.conn.Write([]byte(text))
		return err == nil
	}
	for i := range len(text) {
		if _, err := d.conn.Write([]byte{text[i]}); err != nil {
			return false
		}
	}
	return true
}

// receive returns the number in the line, and records its session.
func (d *hostile) receive(line string) string {
	fields := splitLine([]byte(strings.TrimSuffix(line, "\n")))
	if fields[0] == "AUTH" {
		session, _ := params(fields).get("session")
		id, _ := strconv.ParseUint(fields[1], 10, 32)
		d.ids[session] = append(d.ids[session], id)
	}
	return fields[1]
}

// checkOutcome compares the outcome of an exchange with the lines that were sent.
func (d *hostile) checkOutcome(t *testing.T, o outcome) {
	t.Helper()
	accepted, refusedHere := d.results(o.session)
	failure, refused := errors.AsType[*auth.Failure](o.err)
	switch {
	case o.err == nil:
		o.id.Mechanism = ""
		if !accepted[o.id] || o.id.User == "" || strings.ContainsFunc(o.id.User+o.id.As, unicode.IsControl) {
			t.Errorf("%q authenticates %+v", d.sent.String(), o.id)
		}
	case refused && !refusedHere:
		t.Errorf("%q refuses: %v", d.sent.String(), failure)
	case !refused && !isUnavailable(o.err) && !errors.Is(o.err, auth.ErrMalformed):
		t.Errorf("%q is neither success nor refusal nor temporary error: %v", d.sent.String(), o.err)
	}
	if o.err == nil {
		return
	}
	text := o.err.Error()
	if strings.Contains(text, password) || strings.Contains(text, base64.StdEncoding.EncodeToString([]byte(password))) {
		t.Errorf("the password is in %q", text)
	}
	if len(text) > 2000 || strings.ContainsFunc(text, unicode.IsControl) {
		t.Errorf("too long or with control characters: %q", text)
	}
}

// results returns the identities in complete OK lines with a number of that session, and
// whether there was a refusal.
func (d *hostile) results(session string) (accepted map[auth.Identity]bool, refused bool) {
	accepted = map[auth.Identity]bool{}
	for line := range strings.Lines(d.sent.String()) {
		line, whole := strings.CutSuffix(line, "\n")
		fields := splitLine([]byte(line))
		if !whole || len(fields) < 2 || !d.isOf(fields[1], session) {
			continue
		}
		p := params(fields[2:])
		switch {
		case fields[0] == "FAIL", fields[0] == "OK" && p.has("nologin"):
			refused = true
		case fields[0] == "OK" && !p.has("proxy"):
			user, _ := p.get("user")
			id := auth.Identity{User: user, As: user, Store: Kind}
			if master, ok := p.get("auth_user"); ok {
				id.User = master
			}
			accepted[id] = true
		}
	}
	return accepted, refused
}

// isOf reports whether number is of the session. A request that Dovecot has not read may
// have any number.
func (d *hostile) isOf(number, session string) bool {
	id, err := strconv.ParseUint(number, 10, 32)
	own, read := d.ids[session]
	return err == nil && (!read || slices.Contains(own, id))
}
