package smtpd

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base32"
	"errors"
	"net"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/emersion/go-smtp"
)

// A Conn is one client's connection. Its methods may be called from the session's
// methods; those that any goroutine may call are marked.
type Conn struct {
	cfg     *Config
	session Session // nil if the connection was refused
	id      string
	remote  netip.AddrPort
	local   netip.AddrPort
	loginBy time.Time
	ctx     context.Context // ends with the connection
	cancel  context.CancelCauseFunc

	transport transport
	in        input
	out       output
	lastIO    time.Time // of the last send or receive

	hello      string // what the client called itself; empty before EHLO and HELO
	extended   bool   // it was EHLO, not HELO
	offer      Offer  // at the last EHLO or HELO
	loggedIn   bool   // AUTH has succeeded
	mail       transaction
	proxyLines int    // lines of a PROXY header of version 2 that have been read
	limited    *Reply // the reply to all commands that LimitCommands does not leave; nil: all are allowed
	errors     int    // refused commands, for Config.MaxErrors
	junk       int    // for Config.MaxJunk

	preAuthOver atomic.Bool
	closing     closing
	observers   []func(seen bool) // Reply.OnSeen of the replies since the last input
}

// Serve serves a connection until it is closed. When ctx ends, Serve closes it at once.
// Connections may share cfg and h. Serve closes raw.
func Serve(ctx context.Context, raw net.Conn, cfg *Config, h Handler) {
	c := &Conn{
		cfg: cfg, id: NewID(),
		remote: addrPort(raw.RemoteAddr()), local: addrPort(raw.LocalAddr()),
		loginBy:   time.Now().Add(cfg.LoginTime),
		lastIO:    time.Now(),
		transport: transport{Conn: raw, writeTime: cfg.WriteTime},
	}
	c.in.drop()
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	if cfg.ImplicitTLS {
		c.transport.tls = tls.Server(&c.transport, cfg.TLS) // the handshake happens at the first receive or send
	}
	c.close(c.run(h))
}

// run serves the client. It returns why the connection ends.
func (c *Conn) run(h Handler) (reason error) {
	err := c.contain(func() { reason = c.serve(h) })
	if err != nil {
		c.CloseAfterReply(replyPanic)
		return err
	}
	return reason
}

func (c *Conn) serve(h Handler) error {
	session, refused := h.NewSession(c.ctx, c)
	if refused != nil {
		c.CloseAfterReply(refused)
		_ = c.transport.Conn.SetReadDeadline(time.Now().Add(c.cfg.RefuseTime))
		return c.transport.ready() // with ImplicitTLS, the client can read nothing before the handshake
	}
	c.session = session
	c.send(&Reply{Code: 220, Enhanced: smtp.NoEnhancedCode, Lines: []string{c.cfg.Hostname + " ESMTP Service Ready"}})
	for {
		line, err := c.readLine(true)
		if errors.Is(err, errLongLine) {
			c.refuse("unknown", "", replyLongLine)
			continue
		}
		if err != nil {
			return err
		}
		if err := c.command(line); err != nil {
			return err
		}
	}
}

// close sends the last replies, closes the connection and ends the session.
func (c *Conn) close(reason error) {
	if err := c.contain(func() { c.endTransaction(ResetClosing, reason) }); err != nil {
		reason = err
	}
	c.closing.mu.Lock()
	if c.closing.decided && c.closing.farewell != nil {
		c.out.hold(c.closing.farewell)
	}
	c.closing.mu.Unlock()
	unseen := func() { c.notify(false) }
	if c.transport.sendLast(c.out.held) && c.mayBeSending(reason) {
		reason = cmp.Or(c.contain(unseen), reason) // later input does not show that the client has seen the replies
		c.cfg.Linger.wait(c.transport.Conn)
	}
	_ = c.transport.Conn.Close()
	c.cancel(reason)
	reason = cmp.Or(c.contain(unseen), reason)
	if c.session != nil {
		c.session.Close(reason)
	}
}

// contain turns a panic of f into an error.
func (c *Conn) contain(f func()) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	f()
	return nil
}

// mayBeSending reports whether the client may still be sending: it has not closed the
// connection, sent QUIT or timed out.
func (c *Conn) mayBeSending(reason error) bool {
	var foreign *ForeignError
	return errors.Is(reason, ErrClosed) || errors.Is(reason, ErrTooLong) || errors.Is(reason, ErrTooSlow) || errors.As(reason, &foreign)
}

// NewID returns an identifier of 12 letters and digits that is unique across restarts. Any
// goroutine may call it.
func NewID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))[:12]
}

// ID identifies the connection in the log; see [NewID]. Any goroutine may call it.
func (c *Conn) ID() string { return c.id }

// Remote is the client's TCP address; behind a proxy, the address in the PROXY header. Any
// goroutine may call it.
func (c *Conn) Remote() netip.AddrPort { return c.remote }

// Local is the server's end of the connection. Any goroutine may call it.
func (c *Conn) Local() netip.AddrPort { return c.local }

// TLS is the state of the TLS connection, or nil in clear text.
func (c *Conn) TLS() *tls.ConnectionState {
	if !c.transport.handshook {
		return nil
	}
	state := c.transport.tls.ConnectionState()
	return &state
}

// Certificate is the certificate that was sent to the client, or nil if it is not known.
func (c *Conn) Certificate() *x509.Certificate { return c.transport.shown.Load() }

// Authenticated lifts the time limits that apply before authentication.
func (c *Conn) Authenticated() { c.preAuthOver.Store(true) }

// LimitCommands leaves the client EHLO, HELO, NOOP, RSET, STARTTLS and QUIT, also in clear
// text. r is the reply to the other commands, but for BDAT, which is refused after its
// chunk. It may be called in Handler.NewSession.
func (c *Conn) LimitCommands(r *Reply) { c.limited = r }

// notify calls the observers of the replies since the last input.
func (c *Conn) notify(seen bool) {
	if len(c.observers) == 0 {
		return
	}
	observers := c.observers
	c.observers = nil
	if seen {
		giveUpUnacked(c.transport.Conn, 0)
	}
	for _, f := range observers {
		f(seen)
	}
}

// errLongLine means that a line of more than Config.MaxLine octets was read to its end, so
// the next command can be read.
var errLongLine = errors.New("smtpd: line too long")

// longLineFactor times Config.MaxLine is the most that is read of one line.
const longLineFactor = 4

// readLine waits for a line. The line is valid until the next read. If a command is
// expected, the beginning of a TLS record is returned as a line, because a line end may
// never follow. After an error other than errLongLine, the connection has to be closed; its
// last replies are already queued.
func (c *Conn) readLine(isCommand bool) ([]byte, error) {
	by := time.Now().Add(c.timeouts().Command)
	skipped := 0
	for {
		if c.isClosing() {
			return nil, ErrClosed
		}
		line, ok := c.in.nextLine()
		switch {
		case ok && skipped+len(line) > c.cfg.MaxLine:
			return nil, errLongLine
		case ok:
			return line, nil
		case isCommand && startsTLS(c.in.partial):
			return c.in.partial, nil
		}
		if skipped+len(c.in.partial) > c.cfg.MaxLine {
			skipped += len(c.in.partial)
			c.in.partial = nil
		}
		if skipped > longLineFactor*c.cfg.MaxLine {
			c.refuse("unknown", "", replyLongLine)
			c.CloseAfterReply(nil)
			return nil, ErrTooLong
		}
		if err := c.fillLine(by); err != nil {
			switch {
			case errors.Is(err, ErrTimeout):
				c.CloseAfterReply(replyTimeout)
			case errors.Is(err, ErrTooSlow):
				c.CloseAfterReply(replyTooSlow)
			}
			return nil, err
		}
	}
}

// fill sends the replies that are held back, then waits until by for input. After an error,
// the connection has to be closed.
func (c *Conn) fill(by time.Time) error {
	if !c.preAuthOver.Load() && c.loginBy.Before(by) {
		by = c.loginBy
	}
	_ = c.transport.Conn.SetReadDeadline(by)
	if c.isClosing() {
		return ErrClosed
	}
	if err := c.flush(); err != nil {
		return err
	}
	err := c.in.fill(&c.transport)
	switch {
	case err == nil:
		c.lastIO = time.Now()
		c.notify(true)
	case c.isClosing(): // CloseIdle has ended the read
		return ErrClosed
	case timedOut(err) && c.transport.canSend():
		return ErrTimeout
	}
	return err
}

func (c *Conn) timeouts() *Timeouts {
	if c.preAuthOver.Load() {
		return &c.cfg.Normal
	}
	return &c.cfg.PreAuth
}

// maxSilence is how long replies are held back while pipelined commands are executed.
// Otherwise, with a hundred recipients that each take the next hop some seconds, the client
// might time out before it receives the first reply.
const maxSilence = 10 * time.Second

// send holds a reply back until the next read, unless the client has waited for maxSilence.
func (c *Conn) send(r *Reply) {
	if r.OnSeen != nil {
		c.observers = append(c.observers, r.OnSeen) // there are several if messages are pipelined
		giveUpUnacked(c.transport.Conn, unackedTime)
	}
	if r.Close {
		c.CloseAfterReply(nil)
	}
	full := c.out.hold(r)
	if full || c.transport.canSend() && time.Since(c.lastIO) > maxSilence {
		_ = c.flush() // the next read returns the error, too
	}
}

// flush sends the replies that are held back. An error is final.
func (c *Conn) flush() error {
	var err error
	if held := c.out.held; len(held) > 0 {
		err = c.transport.send(held)
		if cap(held) == len(replyBuffer{}) {
			replyBuffers.Put((*replyBuffer)(held[:cap(held)]))
		}
		c.out.held = nil
	}
	c.lastIO = time.Now()
	if err != nil {
		c.notify(false)
	}
	return err
}

// refuse sends a negative reply and counts it. argument is for the log.
func (c *Conn) refuse(verb, argument string, r *Reply) {
	c.session.Refused(Refusal{Verb: verb, Argument: argument, Reply: r})
	c.send(r)
	if !r.NotAnError {
		c.countError()
	}
}

func (c *Conn) countError() {
	if c.errors++; c.errors >= c.cfg.MaxErrors {
		c.CloseAfterReply(replyTooManyErrors)
	}
}

// replyContext bounds the work for one reply.
func (c *Conn) replyContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.ctx, c.cfg.ReplyTime)
}
