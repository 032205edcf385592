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

// In the text of a hostile Dovecot.
const (
	pause  = "|" // what comes behind it is said when there is another line to answer, or when nobody says anything
	thisID = "#" // the number of the exchange that the last line was about
)

const untold = "a secret that nobody is told"

// FuzzServer is a Dovecot that says anything at all to a few exchanges, one after
// the other or two at once, as a whole or byte by byte, and then hangs up. It
// authenticates nobody without having said OK to the number of the very exchange,
// with the user's name, in so many words, and it refuses nobody without a FAIL.
// Whatever it does, everything comes to an end, and no error tells the password, or
// breaks a line of the log.
//
// It happens in a bubble, in which time costs nothing, and which no goroutine
// outlives.
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
		synctest.Test(t, func(t *testing.T) { confront(t, hello, text, plan) })
	})
}

// confront has the exchanges of plan, an octal digit for each, the last digit
// first. The highest bit has Dovecot say everything byte by byte.
func confront(t *testing.T, hello, text string, plan uint16) {
	client, server := net.Pipe()
	d := &hostile{conn: server, bytewise: plan>>15 == 1, ids: map[string][]uint64{}}
	over := make(chan struct{})
	go func() {
		defer close(over)
		d.serve(hello, text)
	}()
	a := &applicant{}
	if a.connect(client) {
		for plan &= 0x7fff; ; plan >>= 3 {
			exchanges[plan&7](a)
			if plan < 8 {
				break
			}
		}
		_ = a.proxy.Close()
	}
	client.Close()
	<-over
	for _, o := range a.outcomes {
		d.judge(t, o)
	}
}

// exchanges are what an applicant may do.
var exchanges = [8]func(*applicant){
	(*applicant).verify,
	func(a *applicant) { a.exchange("PLAIN", "\x00alice\x00"+untold) },
	func(a *applicant) { a.exchange("LOGIN", "", "alice", untold) },
	func(a *applicant) { a.exchange("SCRAM-SHA-256", "n,,n=alice,r=1", "c=biws,r=12,p=AA==", "") },
	func(a *applicant) { a.atOnce(a.verify, a.verify) },
	func(a *applicant) { a.exchange("PLAIN", "", "\x00alice\x00"+untold) },
	func(a *applicant) { a.exchange("LOGIN", "") }, // and goes away
	func(a *applicant) {
		a.atOnce(a.verify, func() { a.exchange("LOGIN", "alice", untold) })
	},
}

// An applicant wants to be authenticated.
type applicant struct {
	proxy Proxy

	mu       sync.Mutex
	sessions int
	outcomes []outcome
}

// An outcome is what an exchange came to. No identity and no error is an exchange
// that was not brought to its end.
type outcome struct {
	session string
	id      auth.Identity
	err     error
}

// connect makes the connection by hand, since there is only one.
func (a *applicant) connect(n net.Conn) bool {
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
	a.proxy = Proxy{Store: s, Throttle: newThrottle(), Timeout: 10 * time.Second}
	return true
}

// peer is another session each time, so that what Dovecot hears of it can be told
// apart.
func (a *applicant) peer() *auth.Peer {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sessions++
	p := peer()
	p.Session = "s" + strconv.Itoa(a.sessions)
	return p
}

func (a *applicant) note(p *auth.Peer, id auth.Identity, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.outcomes = append(a.outcomes, outcome{p.Session, id, err})
}

func (a *applicant) atOnce(all ...func()) {
	var work sync.WaitGroup
	for _, do := range all {
		work.Go(do)
	}
	work.Wait()
}

func (a *applicant) verify() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	p := a.peer()
	id, err := a.proxy.VerifyPassword(ctx, p, "alice", untold)
	a.note(p, id, err)
}

// exchange says the responses one by one; the first is the initial one, if it is
// not empty.
func (a *applicant) exchange(mech string, responses ...string) {
	p := a.peer()
	x, err := a.proxy.Start(context.Background(), p, mech)
	if err != nil {
		return // was not offered
	}
	defer x.Close()
	for i, response := range responses {
		message := []byte(response)
		if i == 0 && response == "" {
			message = nil
		}
		_, done, err := x.Next(context.Background(), message)
		if done || err != nil {
			a.note(p, x.Identity(), err)
			return
		}
	}
}

// A hostile Dovecot serves one connection.
type hostile struct {
	conn     net.Conn
	bytewise bool
	said     bytes.Buffer        // behind the greeting
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
		for range lines { // lets the reader end
		}
	}()
	<-lines // VERSION
	<-lines // CPID
	if !d.say(hello) {
		return
	}
	last := ""
	for part := range strings.SplitSeq(text, pause) {
		select {
		case line, ok := <-lines:
			if !ok {
				return
			}
			last = d.hear(line)
		case <-time.After(time.Second):
		}
		part = strings.ReplaceAll(part, thisID, last)
		d.said.WriteString(part)
		if !d.say(part) {
			return
		}
	}
}

// say reports false when nobody listens any more.
func (d *hostile) say(text string) bool {
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

// hear returns the number in the line, and notes whose it is.
func (d *hostile) hear(line string) string {
	fields := splitLine([]byte(strings.TrimSuffix(line, "\n")))
	if fields[0] == "AUTH" {
		session, _ := params(fields).get("session")
		id, _ := strconv.ParseUint(fields[1], 10, 32)
		d.ids[session] = append(d.ids[session], id)
	}
	return fields[1]
}

// judge compares what came of an exchange with what was said.
func (d *hostile) judge(t *testing.T, o outcome) {
	t.Helper()
	yes, no := d.verdicts(o.session)
	failure, refused := errors.AsType[*auth.Failure](o.err)
	switch {
	case o.err == nil:
		o.id.Mechanism = ""
		if !yes[o.id] || o.id.User == "" || strings.ContainsFunc(o.id.User+o.id.As, unicode.IsControl) {
			t.Errorf("%q authenticates %+v", d.said.String(), o.id)
		}
	case refused && !no:
		t.Errorf("%q refuses: %v", d.said.String(), failure)
	case !refused && !isUnavailable(o.err) && !errors.Is(o.err, auth.ErrMalformed):
		t.Errorf("%q is neither yes nor no nor later: %v", d.said.String(), o.err)
	}
	if o.err == nil {
		return
	}
	text := o.err.Error()
	if strings.Contains(text, untold) || strings.Contains(text, base64.StdEncoding.EncodeToString([]byte(untold))) {
		t.Errorf("the password is in %q", text)
	}
	if len(text) > 2000 || strings.ContainsFunc(text, unicode.IsControl) {
		t.Errorf("not fit for the log: %q", text)
	}
}

// verdicts are the identities that Dovecot has said OK to, in whole lines with a
// number of that session, and whether it has said no.
func (d *hostile) verdicts(session string) (yes map[auth.Identity]bool, no bool) {
	yes = map[auth.Identity]bool{}
	for line := range strings.Lines(d.said.String()) {
		line, whole := strings.CutSuffix(line, "\n")
		fields := splitLine([]byte(line))
		if !whole || len(fields) < 2 || !d.isOf(fields[1], session) {
			continue
		}
		p := params(fields[2:])
		switch {
		case fields[0] == "FAIL", fields[0] == "OK" && p.has("nologin"):
			no = true
		case fields[0] == "OK" && !p.has("proxy"):
			user, _ := p.get("user")
			id := auth.Identity{User: user, As: user, Store: Kind}
			if master, ok := p.get("auth_user"); ok {
				id.User = master
			}
			yes[id] = true
		}
	}
	return yes, no
}

// isOf reports whether number is that of the session. One that Dovecot has guessed
// while the question was on its way, and not read any more, may be anybody's.
func (d *hostile) isOf(number, session string) bool {
	id, err := strconv.ParseUint(number, 10, 32)
	own, heard := d.ids[session]
	return err == nil && (!heard || slices.Contains(own, id))
}
