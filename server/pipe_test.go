package server

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// A pipe is a connection in memory, for tests that make very many. The client's side
// blocks only in settle and over. The server reads it in pieces of any size, up to an end
// anywhere.
type pipe struct {
	remote netip.AddrPort

	mu       sync.Mutex
	change   *sync.Cond
	up, down []byte // on the way to the server and from it
	sip      int    // how much the server reads at once; 0 is everything
	left     int    // octets until the stream is cut; negative: it is not
	reset    bool   // it is cut by RST, not by FIN
	ended    bool   // no more octets come from the client
	broken   bool   // RST
	short    bool   // the server does not receive all that the client has sent
	expired  bool   // the server's deadline for reading has passed
	soon     bool   // the deadline passes when the server would have to wait
	reading  bool   // the server waits for more
	closed   bool   // by the server
	stuck    bool   // this takes too long
}

func newPipe(remote netip.AddrPort) *pipe {
	p := &pipe{remote: remote, left: -1}
	p.change = sync.NewCond(&p.mu)
	return p
}

// send puts b on the way to the server, up to where the stream is cut.
func (p *pipe) send(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended || p.broken {
		p.short = true
		return
	}
	if p.left >= 0 {
		p.short = p.short || len(b) > p.left
		b = b[:min(p.left, len(b))]
		p.left -= len(b)
	}
	p.up = append(p.up, b...)
	if p.left == 0 {
		p.ended = true
	}
	p.change.Broadcast()
}

// cut ends the stream n octets from here, if it does not end earlier.
func (p *pipe) cut(n int, reset bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended || p.left >= 0 && p.left <= n {
		return // earlier
	}
	p.left, p.reset = n, reset
	p.ended = n == 0
	p.change.Broadcast()
}

// settle waits until the server has read everything and waits for more, or has
// closed the connection. It reports false if that takes too long.
func (p *pipe) settle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.closed && !p.stuck && !p.idle() {
		p.change.Wait()
	}
	return !p.stuck
}

func (p *pipe) idle() bool { return p.reading && len(p.up) == 0 && !p.ended }

// over waits until the server has closed the connection, and reports false if
// that takes too long.
func (p *pipe) over() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.closed && !p.stuck {
		p.change.Wait()
	}
	return p.closed
}

func (p *pipe) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// giveUp ends all waits.
func (p *pipe) giveUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stuck = true
	p.change.Broadcast()
}

// wasReset reports whether the connection has ended by a RST.
func (p *pipe) wasReset() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.broken
}

// spoil notes that the server receives something that is not what the client sends.
func (p *pipe) spoil() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.short = true
}

// isShort reports whether the server may not have received all of it, or the client
// not all replies.
func (p *pipe) isShort() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.short || p.broken
}

// A clientEnd is the pipe for the client's TLS. Where the server waits as well, a read
// fails with os.ErrDeadlineExceeded.
type clientEnd struct{ *pipe }

func (c clientEnd) Read(b []byte) (int, error) {
	p := c.pipe
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.down) == 0 && !p.closed && !p.stuck && !p.idle() {
		p.change.Wait()
	}
	n := copy(b, p.down)
	p.down = p.down[n:]
	switch {
	case n > 0:
		return n, nil
	case p.closed:
		return 0, io.EOF
	}
	return 0, os.ErrDeadlineExceeded
}

func (c clientEnd) Write(b []byte) (int, error)      { c.send(b); return len(b), nil }
func (c clientEnd) Close() error                     { c.cut(0, false); return nil }
func (c clientEnd) LocalAddr() net.Addr              { return net.TCPAddrFromAddrPort(c.remote) }
func (c clientEnd) RemoteAddr() net.Addr             { return serverAddr }
func (c clientEnd) SetDeadline(time.Time) error      { return nil }
func (c clientEnd) SetReadDeadline(time.Time) error  { return nil }
func (c clientEnd) SetWriteDeadline(time.Time) error { return nil }

var serverAddr = net.TCPAddrFromAddrPort(netip.MustParseAddrPort("198.51.100.1:587"))

// A serverEnd is the server's end of a pipe.
type serverEnd struct{ *pipe }

func (s serverEnd) Read(b []byte) (int, error) {
	p := s.pipe
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.closed:
			return 0, net.ErrClosed
		case p.broken:
			return 0, syscall.ECONNRESET
		case p.expired:
			return 0, os.ErrDeadlineExceeded
		case len(p.up) > 0:
			n := len(p.up)
			if p.sip > 0 {
				n = min(n, p.sip)
			}
			n = copy(b, p.up[:n])
			p.up = p.up[n:]
			return n, nil
		case p.ended && p.reset:
			p.broken = true
		case p.ended:
			return 0, io.EOF
		case p.soon:
			return 0, os.ErrDeadlineExceeded
		default:
			p.reading = true
			p.change.Broadcast()
			p.change.Wait()
			p.reading = false
		}
	}
}

func (s serverEnd) Write(b []byte) (int, error) {
	p := s.pipe
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return 0, net.ErrClosed
	case p.broken:
		return 0, syscall.EPIPE
	}
	p.down = append(p.down, b...)
	p.change.Broadcast()
	return len(b), nil
}

func (s serverEnd) Close() error {
	p := s.pipe
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.change.Broadcast()
	return nil
}

// SetReadDeadline sets a deadline that has passed, one that passes as soon as the server
// would have to wait, if it is less than a second away, or none: no test waits for the
// others.
func (s serverEnd) SetReadDeadline(t time.Time) error {
	p := s.pipe
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return net.ErrClosed
	}
	p.expired = !t.IsZero() && !t.After(time.Now())
	p.soon = !t.IsZero() && t.Before(time.Now().Add(time.Second))
	p.change.Broadcast()
	return nil
}

func (s serverEnd) SetWriteDeadline(time.Time) error { return nil }
func (s serverEnd) SetDeadline(t time.Time) error    { return s.SetReadDeadline(t) }
func (s serverEnd) LocalAddr() net.Addr              { return serverAddr }
func (s serverEnd) RemoteAddr() net.Addr             { return net.TCPAddrFromAddrPort(s.remote) }

// A pipeListener accepts pipes.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) dial(remote netip.AddrPort) *pipe {
	p := newPipe(remote)
	l.conns <- serverEnd{p}
	return p
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipeListener) Addr() net.Addr { return serverAddr }

// A pipeClient is the client of a session over a pipe: it keeps what was sent and
// received, in clear and under TLS.
type pipeClient struct {
	*pipe
	listener string
	tls      *tls.Conn // nil in clear text
	config   *tls.Config
	pending  []byte
	clear    layer
	secure   layer
	failed   bool // the handshake: nothing more can be sent
	early    bool // the server has sent something before the client, after STARTTLS
}

// A layer is what was sent and received in clear, or under TLS.
type layer struct{ sent, received []byte }

func (c *pipeClient) layer() *layer {
	if c.tls != nil {
		return &c.secure
	}
	return &c.clear
}

// flush sends what is pending, waits for the server, and collects its replies.
func (c *pipeClient) flush() {
	if c.failed {
		c.pending = nil
	}
	if text := c.pending; len(text) > 0 {
		c.pending = nil
		l := c.layer()
		l.sent = append(l.sent, text...)
		if c.tls == nil {
			c.send(text)
		} else if _, err := c.tls.Write(text); err != nil {
			c.spoil() // after a close_notify
		}
	}
	c.settle()
	c.collect()
}

// collect takes what the server has sent.
func (c *pipeClient) collect() {
	if c.tls == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.clear.received = append(c.clear.received, c.down...)
		c.down = nil
		return
	}
	var block [4096]byte
	for !c.failed {
		n, err := c.tls.Read(block[:])
		c.secure.received = append(c.secure.received, block[:n]...)
		if err != nil {
			return
		}
	}
}

// handshake begins TLS, whether the server expects it or not.
func (c *pipeClient) handshake() {
	c.tls = tls.Client(clientEnd{c.pipe}, c.config)
	err := c.tls.Handshake()
	c.failed = err != nil
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.cut(0, false) // both wait for each other
	}
	if !c.failed && c.listener == starttlsListener {
		c.settle()
		c.collect()
		c.early = len(c.secure.received) > 0
	}
}

// end closes the connection, with a close_notify if polite.
func (c *pipeClient) end(polite, reset bool) {
	c.flush()
	if polite && c.tls != nil && !c.failed {
		_ = c.tls.CloseWrite()
	}
	c.cut(0, reset)
	c.over()
	c.collect()
}
