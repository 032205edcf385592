package server

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base32"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// writeTimeout bounds how long a client may refuse to read our replies.
const writeTimeout = time.Minute

// conn is a client's connection: the socket and, once there is one, the TLS
// over it. As a net.Conn it is the socket, which is what TLS works on; what the
// client says and hears goes through receive and send.
//
// It adds deadlines, which are shorter before authentication, and a farewell:
// the last line that the client sees before we hang up.
//
// receive and send are called by one goroutine at a time, the one of go-smtp's
// server that has the connection; everything else may be called by any.
type conn struct {
	net.Conn
	id            string // of the session, for the log
	log           mailLog
	remote, local netip.AddrPort
	limits        *Limits
	linger        *lingering
	begun         time.Time
	loginBy       time.Time
	ctx           context.Context // ends with the connection
	cancel        context.CancelFunc
	admitted      func() // called when the client is no stranger any more
	remember      func() // called when it has logged in
	closed        func() // called once, when the connection is closed

	tls    *tls.Conn // nil on clear text
	shaken bool      // the handshake is over
	ended  error     // why there is nothing more to receive
	corked bool      // what is written is the end, and goes out at once
	cork   []byte

	loggedIn atomic.Bool
	busy     atomic.Bool // a transaction is in flight
	messages atomic.Int32
	refusals atomic.Int32
	shown    atomic.Pointer[x509.Certificate]

	mu       sync.Mutex
	over     bool         // hang up when the server reads the next time
	farewell string       // said then, if there is anything to say
	leaving  bool         // hang up as soon as no transaction is in flight
	fates    []func(bool) // to be told what became of the last replies
	once     sync.Once
}

// newConn wraps raw. The caller sets admitted, remember and closed before it
// hands the connection on.
func newConn(raw net.Conn, s *service) *conn {
	c := &conn{
		Conn:   raw,
		id:     newID(),
		remote: addrPort(raw.RemoteAddr()),
		local:  addrPort(raw.LocalAddr()),
		limits: &s.limits,
		begun:  time.Now(),
		linger: s.linger,
	}
	c.loginBy = c.begun.Add(s.limits.LoginTime)
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.log = s.log.forSession(c.id, s.listener.Name, c.remote.Addr())
	return c
}

// newID returns an id that is unique over restarts, of 12 characters.
func newID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))[:12]
}

func addrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		ap := tcp.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// secure puts TLS over the socket. The handshake comes with the next receive.
func (c *conn) secure(config *tls.Config) { c.tls = tls.Server(c, config) }

// ShowCertificate is told, by the TLS above, which certificate the client sees.
func (c *conn) ShowCertificate(leaf *x509.Certificate) { c.shown.Store(leaf) }

// admit lifts the limits that hold for strangers.
func (c *conn) admit() {
	if !c.loggedIn.Swap(true) {
		c.admitted()
	}
}

// login admits a client that has proved who it is, and has those let in that
// come from there.
func (c *conn) login() {
	c.admit()
	c.remember()
}

// refused counts a command that was answered with 4xx or 5xx, and hangs up when
// there have been too many, as Postfix does with smtpd_hard_error_limit.
func (c *conn) refused() {
	if int(c.refusals.Add(1)) >= c.limits.RefusedCommands {
		c.hangUp(tooManyErrors)
	}
}

// hangUp ends the connection when the reply that is being made is out. line, if
// any, is the last one that the client sees. Commands that it has pipelined are
// not run any more.
func (c *conn) hangUp(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		c.over, c.farewell = true, line
	}
}

// drain hangs up as soon as no transaction is in flight, which is at once for
// an idle client.
func (c *conn) drain() {
	c.mu.Lock()
	c.leaving = true
	c.mu.Unlock()
	if c.busy.Load() {
		return // receive hangs up when the transaction is over
	}
	c.hangUp(shuttingDown)
	// An AUTH may wait for a store that hangs, or for a penalty to be over.
	time.AfterFunc(authGrace, c.cancel)
	// Wake the receive that waits for the next command.
	_ = c.Conn.SetReadDeadline(time.Unix(1, 0))
}

// authGrace is how long an AUTH that is under way keeps us from shutting down.
const authGrace = 2 * time.Second

// lookEvery is how often it is looked whether a client still waits for the
// outcome of its AUTH.
const lookEvery = time.Second

// watch cancels what is done for the client if it hangs up while nobody reads,
// until stop is called.
func (c *conn) watch() (stop func()) {
	done := make(chan struct{})
	go func() {
		look := time.NewTicker(lookEvery)
		defer look.Stop()
		for {
			select {
			case <-done:
				return
			case <-look.C:
				if hungUp(c.Conn) {
					c.cancel()
					return
				}
			}
		}
	}()
	return func() { close(done) }
}

// isOver reports whether we hang up now, and with which words.
func (c *conn) isOver() (line string, over bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over && c.leaving && !c.busy.Load() {
		c.over, c.farewell = true, shuttingDown
	}
	return c.farewell, c.over
}

// afterReply has f told what became of the reply that is being made: true when
// the client has sent something after it, false when it could not be sent or
// the connection ended without another word. f is called once, by any
// goroutine.
func (c *conn) afterReply(f func(seen bool)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fates = append(c.fates, f) // there are several if messages are pipelined
}

func (c *conn) settle(seen bool) {
	c.mu.Lock()
	fates := c.fates
	c.fates = nil
	c.mu.Unlock()
	for _, f := range fates {
		f(seen)
	}
}

// receive waits for the client. An error is final: the next call returns it
// again, however a client dribbles its bytes.
func (c *conn) receive(p []byte) (int, error) {
	return c.received(c.read(p))
}

// moment is how long receiveSoon waits.
const moment = 20 * time.Millisecond

// receiveSoon returns how much has come together with what was received before.
// Under TLS that is the rest of a record, and it is there.
func (c *conn) receiveSoon(p []byte) int {
	_ = c.SetReadDeadline(time.Now().Add(moment))
	n, err := c.read(p)
	if n == 0 && timedOut(err) {
		return 0 // which is no error
	}
	n, _ = c.received(n, err) // an error comes again
	return n
}

func (c *conn) received(n int, err error) (int, error) {
	if n > 0 {
		c.settle(true)
		return n, nil
	}
	if err != nil {
		c.settle(false)
		c.ended = err
	}
	return 0, err
}

func (c *conn) read(p []byte) (int, error) {
	if c.ended != nil {
		return 0, c.ended
	}
	if c.tls == nil {
		return c.Conn.Read(p)
	}
	if err := c.handshake(); err != nil {
		return 0, err
	}
	return c.tls.Read(p)
}

func (c *conn) handshake() error {
	if c.shaken {
		return nil
	}
	if c.ended != nil {
		return c.ended
	}
	err := c.tls.Handshake()
	// A client that waits for an acknowledgement has the EHLO ready.
	quickAck(c.Conn)
	c.shaken = err == nil
	switch {
	case err == nil:
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
		c.log.Debug("connection error", "err", err) // who only looks whether the port is open
	default:
		c.log.handshakeFailed(err)
	}
	return err
}

// send writes p, under TLS if there is any.
func (c *conn) send(p []byte) error {
	err := c.write(p)
	if err != nil {
		c.settle(false)
		c.ended = err
	}
	return err
}

// Write is the one of the socket, for TLS. The deadline is set here and not by
// send, since TLS also writes while it reads: in the handshake, and when the client
// asks for new keys.
func (c *conn) Write(p []byte) (int, error) {
	if c.corked {
		c.cork = append(c.cork, p...)
		return len(p), nil
	}
	_ = c.Conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	return c.Conn.Write(p)
}

func (c *conn) write(p []byte) (err error) {
	if c.tls == nil {
		_, err = c.Write(p)
	} else if err = c.handshake(); err == nil {
		_, err = c.tls.Write(p)
	}
	return err
}

// SetReadDeadline sets the time by which the next bytes must have come.
// Strangers have less, for each command and in total.
func (c *conn) SetReadDeadline(by time.Time) error {
	if !c.loggedIn.Load() {
		if soon := time.Now().Add(c.limits.LoginCommandTimeout); soon.Before(by) {
			by = soon
		}
		if c.loginBy.Before(by) {
			by = c.loginBy
		}
	}
	return c.Conn.SetReadDeadline(by)
}

// shut says the last words and closes the connection in the order that TLS asks
// for (RFC 8446, section 6.1), with one packet. A client that may be sending still
// is given the time to read them.
func (c *conn) shut(words []byte, sending bool) error {
	err := net.ErrClosed
	c.once.Do(func() {
		c.corked = true
		if len(words) > 0 {
			_ = c.send(words)
		}
		if c.shaken {
			_ = c.tls.CloseWrite() // with a deadline of its own, which has passed then
		}
		_ = c.Conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, deaf := c.Conn.Write(c.cork); deaf == nil && sending {
			c.settle(false) // what comes now is no answer
			c.linger.over(c.Conn)
		}
		err = c.end()
	})
	return err
}

// drop closes the connection without a word, and does not wait for one that is
// being said to a client that does not listen.
func (c *conn) drop() {
	_ = c.Conn.Close()
	c.once.Do(func() { _ = c.end() })
}

func (c *conn) end() error {
	err := c.Conn.Close()
	c.cancel()
	c.settle(false)
	c.log.disconnected(time.Since(c.begun), int(c.messages.Load()))
	c.closed()
	return err
}

// cut ends the connection whatever it is busy with.
func (c *conn) cut() {
	c.cancel()
	_ = c.Conn.Close()
}

// timedOut reports whether err is a deadline that has passed.
func timedOut(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
