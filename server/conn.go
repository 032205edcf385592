package server

import (
	"context"
	"crypto/rand"
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

const (
	// quotaBeforeLogin bounds what a client may send without a reply before
	// it has authenticated. RFC 4954, section 4, wants lines of 12,288 bytes.
	quotaBeforeLogin = 16 << 10

	// freeText is what a client that has logged in may always send without a
	// reply while no message is arriving: it may be one command line, which
	// go-smtp keeps in memory to its end. longTexts bounds how many connections
	// of the server may be past it at once; a refused BDAT chunk is, too.
	freeText  = 64 << 10
	longTexts = 32

	// writeTimeout bounds how long a client may refuse to read our replies.
	writeTimeout = time.Minute

	// holdReplies is how many bytes of replies are kept together at the most.
	holdReplies = 8 << 10
)

var errQuota = errors.New("server: client sent too much without waiting for a reply")

// conn is a client's connection as go-smtp (or TLS above it) sees it. It adds
// what go-smtp leaves open:
//
//   - Replies are held back until the server reads again, so that one EHLO or
//     one batch of pipelined commands costs one packet and not a dozen.
//   - Deadlines: shorter ones before authentication, one that moves on while
//     a message arrives, and an expired one is final, however a client
//     dribbles its bytes.
//   - A quota for what may be sent without a reply.
//   - Nothing goes out in clear once TLS has been announced. go-smtp would go
//     on in clear text after a handshake that failed.
//   - A farewell: the last line that the client sees before we hang up.
//
// Read is called by one goroutine at a time; everything else may be called by
// any.
type conn struct {
	net.Conn
	id            string // of the session, for the log
	log           mailLog
	remote, local netip.AddrPort
	limits        Limits
	quotaAfter    int64 // bytes without a reply once authenticated
	begun         time.Time
	loginBy       time.Time
	ctx           context.Context // ends with the connection
	cancel        context.CancelFunc
	admitted      func()        // called when the client has logged in
	closed        func()        // called once, when the connection is closed
	long          *atomic.Int32 // connections of the server past freeText

	loggedIn  atomic.Bool
	busy      atomic.Bool // a transaction is in flight
	shown     atomic.Pointer[x509.Certificate]
	receiving atomic.Bool // a message is arriving: each read has a deadline of its own
	probing   atomic.Bool
	isLong    atomic.Bool // counted in long
	expired   bool        // a read deadline has passed; only Read touches it
	quota     atomic.Int64

	mu       sync.Mutex
	out      []byte // replies held back
	greeted  bool
	tlsBegun bool     // 220 to STARTTLS has been said
	top      net.Conn // where replies are written: this, or the TLS above; nil while unknown
	over     bool     // hang up when the server reads the next time
	farewell string   // said then, if there is anything to say
	leaving  bool     // hang up as soon as no transaction is in flight
	once     sync.Once
}

// newConn wraps raw. The caller sets admitted and closed before it hands the
// connection on.
func newConn(raw net.Conn, s *service) *conn {
	c := &conn{
		Conn:       raw,
		id:         newID(),
		remote:     addrPort(raw.RemoteAddr()),
		local:      addrPort(raw.LocalAddr()),
		limits:     s.limits,
		quotaAfter: 2*int64(s.config.MessageSizeLimit) + quotaBeforeLogin,
		begun:      time.Now(),
		long:       new(atomic.Int32),
	}
	c.loginBy = c.begun.Add(s.limits.LoginTime)
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.log = s.log.forSession(c.id, s.listener.Name, c.remote.Addr())
	if s.listener.Mode == STARTTLS {
		c.top = c
	}
	c.quota.Store(quotaBeforeLogin)
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

// login lifts the limits that hold for strangers.
func (c *conn) login() {
	if c.loggedIn.Swap(true) {
		return
	}
	c.quota.Store(c.quotaAfter)
	c.admitted()
}

// ShowCertificate is told, by the TLS above, which certificate the client sees.
func (c *conn) ShowCertificate(leaf *x509.Certificate) { c.shown.Store(leaf) }

// setTop tells where a line for the client is to be written.
func (c *conn) setTop(top net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.top = top
}

// hangUp ends the connection when the replies to all that came before are out.
// line, if any, is the last one that the client sees.
func (c *conn) hangUp(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		c.over, c.farewell = true, line
	}
}

// drain hangs up as soon as no transaction is in flight, which is at once for
// an idle client.
func (c *conn) drain(line string) {
	c.mu.Lock()
	c.leaving = true
	c.mu.Unlock()
	if c.busy.Load() {
		return // Read hangs up when the transaction is over
	}
	c.hangUp(line)
	// Wake the Read that waits for the next command.
	_ = c.Conn.SetReadDeadline(time.Unix(1, 0))
}

// Read says the farewell if there is one, sends the replies that were held
// back, and waits for the client.
func (c *conn) Read(p []byte) (int, error) {
	if c.probing.Load() {
		return c.Conn.Read(p)
	}
	if c.expired {
		return 0, os.ErrDeadlineExceeded
	}
	if c.bye() {
		return 0, io.EOF
	}
	if err := c.flush(); err != nil {
		return 0, err
	}
	if c.receiving.Load() {
		_ = c.Conn.SetReadDeadline(time.Now().Add(c.limits.DataTimeout))
	}
	n, err := c.Conn.Read(p)
	if c.upgrading() || c.receiving.Load() {
		quickAck(c.Conn)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if c.bye() { // drain woke us
			return 0, io.EOF
		}
		c.expired = true
	}
	if c.quota.Add(-int64(n)) < 0 || c.tooLong() {
		n, err = 0, errQuota
	}
	if err != nil && err != io.EOF && c.receiving.Load() {
		// go-smtp shows any other error of a BDAT chunk to the client, as 554.
		c.log.Debug("connection error", "err", err)
		return n, replyCut
	}
	return n, err
}

// upgrading reports whether the handshake behind STARTTLS is under way, or over
// and no EHLO come yet.
func (c *conn) upgrading() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tlsBegun && c.top == nil
}

// tooLong reports that the client sends a long text, as too many others do.
func (c *conn) tooLong() bool {
	if c.receiving.Load() || c.quotaAfter-c.quota.Load() <= freeText || !c.loggedIn.Load() || c.isLong.Swap(true) {
		return false
	}
	return c.long.Add(1) > longTexts
}

// textOver gives back the place among the long texts.
func (c *conn) textOver() {
	if c.isLong.Swap(false) {
		c.long.Add(-1)
	}
}

// bye says the farewell, if there is one, and reports whether it is over.
func (c *conn) bye() bool {
	c.mu.Lock()
	if !c.over && c.leaving && !c.busy.Load() {
		c.over, c.farewell = true, shuttingDown
	}
	over, line, top := c.over, c.farewell, c.top
	c.farewell = "" // once
	c.mu.Unlock()
	if !over {
		return false
	}
	if top != nil && line != "" {
		_, _ = io.WriteString(top, line+"\r\n")
	}
	_ = c.flush()
	return true
}

// Write holds p back until the server reads again.
func (c *conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tlsBegun && len(p) > 0 && (p[0] < 20 || p[0] > 23) {
		// Not a TLS record (RFC 8446, section 5.1): the handshake has failed.
		c.log.Info("tls handshake failed")
		_ = c.flushLocked() // the alert
		_ = c.Conn.Close()
		return 0, net.ErrClosed
	}
	if len(p) > 3 && string(p[:4]) == "220 " {
		// The first 220 is the greeting, the second the answer to STARTTLS.
		c.tlsBegun = c.greeted
		c.greeted = true
		if c.tlsBegun {
			c.top = nil
		}
	}
	c.out = append(c.out, p...)
	if len(c.out) > holdReplies {
		return len(p), c.flushLocked()
	}
	return len(p), nil
}

func (c *conn) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flushLocked()
}

func (c *conn) flushLocked() error {
	if len(c.out) == 0 {
		return nil
	}
	_ = c.Conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := c.Conn.Write(c.out)
	c.out = nil // most connections are idle most of the time: keep nothing for them
	quota := int64(quotaBeforeLogin)
	if c.loggedIn.Load() {
		quota = c.quotaAfter
	}
	c.quota.Store(quota)
	c.textOver()
	return err
}

// SetReadDeadline takes go-smtp's deadline for the next command. Strangers
// have less time, for each command and in total.
func (c *conn) SetReadDeadline(t time.Time) error {
	if !c.loggedIn.Load() && !t.IsZero() {
		if soon := time.Now().Add(c.limits.LoginCommandTimeout); soon.Before(t) {
			t = soon
		}
		if c.loginBy.Before(t) {
			t = c.loginBy
		}
	}
	return c.Conn.SetReadDeadline(t)
}

// SetWriteDeadline does nothing: deadlines for writing are our own. tls.Conn.Close
// sets one that has passed before it closes the connection beneath, and what is
// held back would be lost.
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline is SetReadDeadline; see SetWriteDeadline.
func (c *conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// Close sends what is held back and closes the connection.
func (c *conn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		_ = c.flush()
		err = c.end()
	})
	return err
}

// drop closes the connection without a word.
func (c *conn) drop() { c.once.Do(func() { _ = c.end() }) }

func (c *conn) end() error {
	err := c.Conn.Close()
	c.cancel()
	c.textOver()
	c.closed()
	return err
}

// cut ends the connection whatever it is busy with.
func (c *conn) cut() {
	c.cancel()
	_ = c.Conn.Close()
}

// ended looks, without waiting, whether the client has closed its side. What
// comes instead is lost, all of it that is here, lest half a command be run; so
// the connection must then be ended after the reply, and pipelined tells of
// that. Only the goroutine that would call Read may call it.
func (c *conn) ended(top net.Conn) (gone, pipelined bool) {
	c.probing.Store(true)
	defer c.probing.Store(false)
	_ = c.Conn.SetReadDeadline(time.Unix(1, 0))
	defer func() { _ = c.Conn.SetReadDeadline(time.Time{}) }()
	var lost [512]byte
	n, err := top.Read(lost[:])
	for pipelined = n > 0; n > 0 && err == nil; {
		n, err = top.Read(lost[:])
	}
	return !pipelined && !errors.Is(err, os.ErrDeadlineExceeded), pipelined
}
