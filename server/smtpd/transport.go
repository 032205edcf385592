package smtpd

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A transport is the client's socket and, once there is one, the TLS over it. As a
// net.Conn it is the socket, which is what crypto/tls works on; the connection
// reads and writes with receive and send.
type transport struct {
	net.Conn
	tls       *tls.Conn // nil in clear text
	handshook bool      // the handshake is over
	handshake int       // octets received for it
	failed    error     // why nothing more can be received or sent
	writeTime time.Duration
	corked    bool // writes are collected in cork, to go out in one packet
	cork      []byte
	shown     atomic.Pointer[x509.Certificate]
}

// ShowCertificate notes which certificate the client has been shown. Package certs
// calls it from the handshake, by way of the ClientHello's connection.
func (t *transport) ShowCertificate(leaf *x509.Certificate) { t.shown.Store(leaf) }

// canSend reports whether the client can read what is sent: not in the middle
// of a handshake.
func (t *transport) canSend() bool { return t.tls == nil || t.handshook }

// receive waits for at least one byte. After an error, but for a deadline that has
// passed, the client sends nothing more; it may still read.
func (t *transport) receive(p []byte) (int, error) {
	if err := t.ready(); err != nil {
		return 0, err
	}
	var n int
	var err error
	if t.tls != nil {
		n, err = t.tls.Read(p)
	} else {
		n, err = t.Conn.Read(p)
	}
	if n > 0 {
		err = nil // the next call returns it
	}
	return n, err
}

// send writes p. An error is final.
func (t *transport) send(p []byte) error {
	err := t.ready()
	switch {
	case err != nil:
		return err
	case t.tls != nil:
		_, err = t.tls.Write(p)
	default:
		_, err = t.Write(p)
	}
	if err != nil {
		t.failed = err
	}
	return err
}

// ready completes the handshake if there is one to be made.
func (t *transport) ready() error {
	if t.failed != nil || t.canSend() {
		return t.failed
	}
	err := t.tls.Handshake()
	quickAck(t.Conn) // a client with Nagle's algorithm holds its EHLO back until then
	t.handshook = err == nil
	if err != nil {
		t.failed = handshakeError(err)
	}
	return t.failed
}

// handshakeError is a failed handshake, or a *ForeignError if there was a PROXY header in its
// place.
func handshakeError(err error) error {
	if first, ok := errors.AsType[tls.RecordHeaderError](err); ok && (isProxyHeader(first.RecordHeader[:]) || strings.HasPrefix(proxySignature, string(first.RecordHeader[:]))) {
		return &ForeignError{Protocol: protocolPROXY}
	}
	return &HandshakeError{err}
}

// maxHandshake bounds what a client sends for a handshake, in octets. A ClientHello
// has 500 to 2,000, a chain of certificates less than 10,000. TLS allows 64 KiB for
// one message, for which crypto/tls takes 140 KiB while it waits for the rest.
const maxHandshake = 16 << 10

var errLongHandshake = errors.New("handshake is too long")

// Read is the one of the socket, for TLS.
func (t *transport) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	if !t.handshook {
		if t.handshake += n; t.handshake > maxHandshake {
			return 0, errLongHandshake
		}
	}
	return n, err
}

// Write is the one of the socket, for TLS. The deadline is set here and not in
// send, since TLS also writes while it reads: in the handshake, and when the client
// asks for new keys.
func (t *transport) Write(p []byte) (int, error) {
	if t.corked {
		t.cork = append(t.cork, p...)
		return len(p), nil
	}
	_ = t.SetWriteDeadline(time.Now().Add(t.writeTime))
	return t.Conn.Write(p)
}

// sendLast sends p and ends the server's side of the TLS connection, in one packet (RFC
// 8446, section 6.1). It reports whether the packet, if there is one, could be written.
func (t *transport) sendLast(p []byte) bool {
	t.corked = true
	if len(p) > 0 && t.canSend() {
		_ = t.send(p)
	}
	if t.handshook {
		_ = t.tls.CloseWrite() // sets another write deadline, which has passed then
	}
	t.corked = false
	if len(t.cork) == 0 {
		return t.failed == nil
	}
	_, err := t.Write(t.cork)
	t.cork = nil
	return err == nil
}

// timedOut reports whether err is a deadline that has passed.
func timedOut(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// addrPort is the address of a TCP peer, or the zero value. IPv4-mapped addresses
// are turned into IPv4.
func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// smallInput is what a connection reads into while it waits. It holds most
// commands, and is all that an idle client costs here.
const smallInput = 512

// A block is what is read into when more than smallInput octets have come: a TLS
// record at once. Byte 0 is room for an unstuffer.
type block [1 + 16<<10]byte

var blocks = sync.Pool{New: func() any { return new(block) }}

// soon is how long to wait for more of what has partly come. Under TLS the rest of
// a record is there already.
const soon = 20 * time.Millisecond

// An input holds what has been received and not been used yet. Only the
// goroutine of the connection uses it.
type input struct {
	small      [1 + smallInput]byte
	block      *block // nil unless the unread octets lie in it
	start, end int    // the unread octets, in block or small; there is always a byte before them
	partial    []byte // the beginning of a line, of which the rest has not come
}

func (in *input) buffer() []byte {
	if in.block != nil {
		return in.block[:]
	}
	return in.small[:]
}

// nextLine returns the next line, its LF included, if it has come; otherwise it
// keeps what has come of it in partial. The line is valid until the next call. No
// second copy of it is left, so that a caller that clears it has cleared a password.
func (in *input) nextLine() (line []byte, ok bool) {
	unread := in.buffer()[in.start:in.end]
	i := bytes.IndexByte(unread, '\n')
	if i < 0 {
		in.partial = append(in.partial, unread...)
		clear(unread)
		in.drop()
		return nil, false
	}
	in.start += i + 1
	line = unread[:i+1]
	if len(in.partial) > 0 {
		line = append(in.partial, line...)
		in.partial = nil
		clear(unread[:i+1])
	}
	return line, true
}

// unread is what has been received and not used yet. It is valid until the next call.
func (in *input) unread() []byte { return in.buffer()[in.start:in.end] }

// use returns up to limit unread octets and counts them as used. They are valid
// until the next call.
func (in *input) use(limit int64) []byte {
	p := in.buffer()[in.start:in.end]
	p = p[:min(int64(len(p)), limit)]
	in.start += len(p)
	return p
}

// drop discards what is unread, and returns the block to the pool.
func (in *input) drop() {
	in.start, in.end = 1, 1
	if in.block != nil {
		blocks.Put(in.block)
		in.block = nil
	}
}

// fill waits for the client, when everything before has been used. Waiting takes
// place with the small buffer alone: with a block for each of many clients on slow
// networks, most of the memory would be idle.
func (in *input) fill(t *transport) error {
	in.drop()
	n, err := t.receive(in.small[1:])
	if err != nil {
		return err
	}
	in.end += n
	if n < smallInput {
		return nil
	}
	in.block = blocks.Get().(*block)
	copy(in.block[1:], in.small[1:])
	clear(in.small[1:])
	_ = t.Conn.SetReadDeadline(time.Now().Add(soon))
	n, _ = t.receive(in.block[in.end:]) // the next receive returns an error, too; a deadline that has passed is none
	in.end += n
	return nil
}

// maxHeldReplies is how many octets of replies are held back at most.
const maxHeldReplies = 8 << 10

// An output holds replies back until the next read from the connection, so that
// one EHLO, or one batch of pipelined commands, costs one packet (RFC 2920,
// section 3.2). Only the goroutine of the connection uses it.
type output struct {
	held []byte // lies in a replyBuffer, unless it has grown out of it
}

type replyBuffer [1 << 10]byte

var replyBuffers = sync.Pool{New: func() any { return new(replyBuffer) }}

// hold appends to what is held back, and reports whether it should be sent now.
func (o *output) hold(r *Reply) (full bool) {
	if o.held == nil {
		o.held = replyBuffers.Get().(*replyBuffer)[:0]
	}
	o.held = r.appendTo(o.held)
	return len(o.held) >= maxHeldReplies
}

// A Linger bounds how connections are closed whose clients may be sending still. A
// system that closes a socket with octets unread, or receives some afterwards,
// resets the connection (RFC 1122, section 4.2.2.13), and the client loses what it
// has not read yet: the last reply. So only the server's side is closed at first, and
// what the client sends is discarded until it has read the reply and closes, too,
// as HTTP servers do (RFC 9112, section 9.6).
//
// A connection counts towards the limits of the server meanwhile: a client that does
// not close gains nothing that silence would not give it. One Linger serves a whole
// server; its methods may be called by any goroutine, and its fields are not changed
// while it is in use. A nil Linger closes at once.
type Linger struct {
	MaxTotal time.Duration // for one connection
	MaxIdle  time.Duration // without an octet
	MaxBytes int           // of one connection

	slots chan struct{} // of connections that linger at once; others are closed at once
}

// NewLinger returns the bounds of a server: 512 connections, each for 2 seconds, 1
// second without an octet, and 8 MiB, about what the buffers of both systems hold.
func NewLinger() *Linger {
	return &Linger{MaxTotal: 2 * time.Second, MaxIdle: time.Second, MaxBytes: 8 << 20, slots: make(chan struct{}, 512)}
}

// wait closes the server's side of conn, and returns when the client has closed its
// own or a bound is reached. The caller closes conn.
func (l *Linger) wait(conn net.Conn) {
	tcp, ok := tcpOf(conn)
	if l == nil || !ok {
		return
	}
	select {
	case l.slots <- struct{}{}:
		defer func() { <-l.slots }()
	default:
		return
	}
	if tcp.CloseWrite() == nil {
		l.discard(tcp)
	}
}

func (l *Linger) discard(conn net.Conn) {
	end := time.Now().Add(l.MaxTotal)
	buffer := make([]byte, 8<<10)
	for left := l.MaxBytes; left > 0; {
		by := time.Now().Add(l.MaxIdle)
		if end.Before(by) {
			by = end
		}
		_ = conn.SetReadDeadline(by)
		n, err := conn.Read(buffer)
		if err != nil && !(timedOut(err) && time.Now().Before(by)) { // unless CloseIdle has ended the read
			return
		}
		left -= n
	}
}

// unackedTime is how long a reply with Reply.OnSeen may stay unacknowledged. A phone
// that changes networks leaves a connection that neither ends nor acknowledges
// anything; the system would keep it for a quarter of an hour.
const unackedTime = time.Minute

// tcpOf returns the TCP connection of a client, or that of the proxy before it.
func tcpOf(c net.Conn) (*net.TCPConn, bool) {
	if proxied, ok := c.(interface{ TCPConn() (*net.TCPConn, bool) }); ok {
		return proxied.TCPConn()
	}
	tcp, ok := c.(*net.TCPConn)
	return tcp, ok
}
