// Package relaytest is a next hop for tests: an SMTP server on loopback that records what it
// receives, and whose replies a test can replace.
//
//	hop := relaytest.New(t, relaytest.Options{})
//	hop.Handle(func(c relaytest.Command) relaytest.Answer {
//		if c.Verb == "RCPT" && c.Address == "unknown@example.org" {
//			return relaytest.Say("550 5.1.1 No such user")
//		}
//		return relaytest.Usual
//	})
//	... send something to hop.URL() ...
//	hop.Delivered()
//
// The hop fails every test in which it receives a bare CR, a bare LF, a NUL or a dot that
// is not stuffed. It implements only as much of SMTP as the tests need.
//
// [Stage] makes a message to send to it.
package relaytest

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/relay/message"
	"postern/test/kit"
)

// Options are the properties of a hop. The zero value is clear text over TCP with the
// extensions of a Postfix.
type Options struct {
	Unix       bool        // listen on a Unix socket
	TLS        *tls.Config // offer STARTTLS, or:
	Implicit   bool        // TLS from the first byte
	Extensions []string    // EHLO lines besides STARTTLS and AUTH; nil means usualExtensions
	User       string      // if not empty, offer AUTH and require it before MAIL
	Password   string
	Mechanisms string // of AUTH; "PLAIN LOGIN" if empty
	Limits     Limits
}

var usualExtensions = []string{"PIPELINING", "SIZE 10240000", "ENHANCEDSTATUSCODES", "8BITMIME", "DSN", "SMTPUTF8"}

// Limits are the limits of a hop for errors. Zero values mean no limit.
type Limits struct {
	Soft  int // errors after which each further one takes Sleep
	Sleep time.Duration
	Hard  int // errors after which the hop sends 421 and disconnects
	Junk  int // RSET, NOOP, VRFY, EHLO after which each further one counts as an error
}

// PostfixLimits are Postfix's defaults (smtpd_soft_error_limit,
// smtpd_error_sleep_time, smtpd_hard_error_limit, smtpd_junk_command_limit).
// As in Postfix, a delivered message sets the counts to zero.
func PostfixLimits() Limits { return Limits{Soft: 10, Sleep: time.Second, Hard: 20, Junk: 100} }

// A Command is the command, or another event, that the hop replies to next.
type Command struct {
	Conn    int    // number of the connection, from 1
	Verb    string // CONNECT, EHLO, MAIL, ..., BODY (354 has been sent), "." (the end of data has arrived)
	Line    string // the whole line
	Address string // of MAIL and RCPT, without brackets
}

// An Answer is the reaction of the hop to a command.
type Answer struct {
	raw     string
	delay   time.Duration
	trickle time.Duration // between two bytes
	hangUp  bool
	stall   bool
}

// Usual is the reply of a correct hop. Like any Answer it can be delayed (After) and sent
// slowly (Trickling).
var Usual = Answer{}

// Say replies with the given lines.
func Say(lines ...string) Answer { return Answer{raw: strings.Join(lines, "\r\n") + "\r\n"} }

// Raw replies with exactly these bytes.
func Raw(s string) Answer { return Answer{raw: s} }

// HangUp closes the connection without a reply.
func HangUp() Answer { return Answer{hangUp: true} }

// Stall sends nothing any more and keeps the connection open.
func Stall() Answer { return Answer{stall: true} }

// AndHangUp closes the connection after a.
func (a Answer) AndHangUp() Answer { a.hangUp = true; return a }

// After delays a by d.
func (a Answer) After(d time.Duration) Answer { a.delay = d; return a }

// Trickling sends a byte by byte, with a pause before each.
func (a Answer) Trickling(pause time.Duration) Answer { a.trickle = pause; return a }

// instead returns a with the usual text, if a is Usual.
func (a Answer) instead(usual func() string) Answer {
	if a.raw == "" && !a.hangUp && !a.stall {
		a.raw = usual() + "\r\n"
	}
	return a
}

// A Message is a transaction whose body has arrived completely.
type Message struct {
	Conn   int
	From   string
	Params string // of MAIL, as received
	To     []Recipient
	Raw    []byte // as received: dot-stuffed, without the final dot
	Data   []byte // without dot-stuffing
	Reply  string // empty if the hop did not reply to it
}

// A Recipient is one RCPT.
type Recipient struct{ Address, Params string }

// A Hop is a next hop. Its methods may be called at any time.
type Hop struct {
	t       testing.TB
	options Options
	network string
	address string

	mu       sync.Mutex
	handle   func(Command) Answer
	listener net.Listener
	stopped  bool
	open     map[net.Conn]struct{}
	conns    int
	peak     int
	commands []string
	messages []Message
	faults   []string

	running sync.WaitGroup
}

// New starts a hop that is stopped at the end of the test.
func New(t testing.TB, o Options) *Hop {
	t.Helper()
	h := &Hop{t: t, options: o, network: "tcp", open: map[net.Conn]struct{}{}}
	h.Handle(nil)
	if o.Unix {
		// t.TempDir may be longer than the address of a socket can be.
		dir, err := os.MkdirTemp("", "hop")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		h.network, h.address = "unix", filepath.Join(dir, "smtp")
	} else {
		h.address = kit.Addr(t)
	}
	h.Start()
	if h.listener == nil {
		t.FailNow()
	}
	t.Cleanup(h.finish)
	return h
}

// Start listens again after Stop, at the same address. Any goroutine of the test
// may call it.
func (h *Hop) Start() {
	h.t.Helper()
	l, err := net.Listen(h.network, h.address)
	if err != nil {
		h.t.Errorf("relaytest: %v", err)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopped, h.listener = false, l
	h.running.Go(func() { h.accept(l) })
}

// Stop closes the listener and all connections, as a kill would. It returns when all
// sessions have ended.
func (h *Hop) Stop() {
	h.mu.Lock()
	h.stopped = true
	h.listener.Close()
	for c := range h.open {
		c.Close()
	}
	h.mu.Unlock()
	h.running.Wait()
}

func (h *Hop) finish() {
	h.Stop()
	for _, fault := range h.faults {
		h.t.Errorf("relaytest: %s", fault)
	}
}

// Handle makes f decide about each reply from now on; nil means Usual for all commands.
func (h *Hop) Handle(f func(Command) Answer) {
	if f == nil {
		f = func(Command) Answer { return Usual }
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.handle = f
}

// URL returns the value for relay.next_hops.
func (h *Hop) URL() string {
	switch {
	case h.options.Unix:
		return "smtp+unix://" + h.address
	case h.options.Implicit:
		return "smtps://" + h.address
	case h.options.TLS != nil:
		return "smtp+starttls://" + h.address
	}
	return "smtp://" + h.address
}

// Messages returns all messages whose body has arrived.
func (h *Hop) Messages() []Message {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]Message(nil), h.messages...)
}

func (h *Hop) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.messages)
}

// Delivered returns the messages to which the hop has replied 250.
func (h *Hop) Delivered() []Message {
	var all []Message
	for _, m := range h.Messages() {
		if strings.HasPrefix(m.Reply, "250") {
			all = append(all, m)
		}
	}
	return all
}

// Commands returns all command lines, each after the number of its connection, such as
// "1 EHLO localhost".
func (h *Hop) Commands() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.commands...)
}

// Take returns what was recorded and discards it, for tests with so much mail that it would
// fill the memory. faults are returned here, and do not fail the test at its end.
func (h *Hop) Take() (messages []Message, commands, faults []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	messages, commands, faults = h.messages, h.commands, h.faults
	h.messages, h.commands, h.faults = nil, nil, nil
	return messages, commands, faults
}

// Count returns the number of commands with this verb.
func (h *Hop) Count(verb string) int {
	n := 0
	for _, c := range h.Commands() {
		if _, line, _ := strings.Cut(c, " "); verbOf(line) == verb {
			n++
		}
	}
	return n
}

// Connections returns the number of connections so far, and the maximum at the same time.
func (h *Hop) Connections() (total, peak int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.conns, h.peak
}

// Open returns the number of connections that are open now.
func (h *Hop) Open() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.open)
}

func (h *Hop) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		n := h.add(c)
		h.running.Go(func() {
			defer h.remove(c)
			newSession(h, c, n).run()
		})
	}
}

func (h *Hop) add(c net.Conn) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopped {
		c.Close()
	}
	h.open[c] = struct{}{}
	h.conns++
	h.peak = max(h.peak, len(h.open))
	return h.conns
}

func (h *Hop) remove(c net.Conn) {
	c.Close()
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.open, c)
}

func (h *Hop) isStopped() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stopped
}

func (h *Hop) fault(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.faults = append(h.faults, fmt.Sprintf(format, args...))
}

// ask records the command and calls the handler.
func (h *Hop) ask(c Command) Answer {
	h.mu.Lock()
	handle := h.handle
	if c.Line != "" {
		h.commands = append(h.commands, fmt.Sprintf("%d %s", c.Conn, c.Line))
	}
	h.mu.Unlock()
	return handle(c)
}

// Stage stages a message for a test, which closes it at its end.
func Stage(t testing.TB, text string) *message.Message {
	t.Helper()
	m, err := stage(t, text)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TryStage is Stage for a message whose header may be too large: then it returns nil.
func TryStage(t testing.TB, text string) *message.Message {
	t.Helper()
	m, err := stage(t, text)
	if err != nil && !errors.Is(err, message.ErrHeaderTooLarge) {
		t.Fatal(err)
	}
	return m
}

func stage(t testing.TB, text string) (*message.Message, error) {
	t.Helper()
	w := message.NewStage(t.TempDir(), 8<<20).New(message.Options{})
	if _, err := io.WriteString(w, text); err != nil {
		return nil, err
	}
	m, err := w.Message()
	if err == nil {
		t.Cleanup(func() { m.Close() })
	}
	return m, err
}

func (h *Hop) record(m Message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.messages = append(h.messages, m)
}
