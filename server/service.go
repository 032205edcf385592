package server

import (
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"sync"

	"github.com/emersion/go-smtp"

	"postern/policy"
	"postern/relay"
	"postern/relay/message"
	"postern/server/auth"
)

const (
	// hopRoom is left between our SIZE and the next hop's for the header
	// fields that we add.
	hopRoom = 8 << 10

	// maxLine bounds lines for go-smtp, which cuts the connection at it. It is
	// above what relay/message takes, so that a client hears 550 instead.
	maxLine = 2 << 20
)

// A service is all that the sessions of one listener work with. It never
// changes: a reload makes a new one for the connections that come then.
type service struct {
	config       *Config
	listener     *Listener
	limits       Limits
	authFailures int
	tls          *tls.Config
	auth         auth.Provider
	policy       *policy.Set
	hop          relay.NextHop
	stage        *message.Stage
	log          mailLog

	mu      sync.Mutex
	front   *front // for what the hop can do now
	retired bool
}

// A front is go-smtp's server over a service. What EHLO offers stands in its
// unsynchronised fields, so it is made anew when the next hop's abilities
// change. Connections reach it one by one through its channel.
type front struct {
	caps  relay.Caps
	conns chan net.Conn
	done  chan struct{}
}

// serve hands a connection to the front that fits the next hop.
func (s *service) serve(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if caps := s.hop.Caps(); s.front == nil || s.front.caps != caps {
		s.closeFront()
		s.front = s.newFront(caps)
	}
	s.front.conns <- c // go-smtp only starts a goroutine for it
	if s.retired {
		s.closeFront() // a late comer
	}
}

// retire ends the service's own goroutine. Its connections go on.
func (s *service) retire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired = true
	s.closeFront()
}

func (s *service) closeFront() {
	if s.front != nil {
		close(s.front.done)
		s.front = nil
	}
}

func (s *service) newFront(caps relay.Caps) *front {
	f := &front{caps: caps, conns: make(chan net.Conn), done: make(chan struct{})}
	p := smtp.NewServer(smtp.BackendFunc(s.newSession))
	p.Domain = s.config.hostname()
	p.TLSConfig = s.tls
	p.MaxRecipients = s.limits.Recipients
	p.MaxMessageBytes = s.sizeLimit(caps)
	p.MaxLineLength = maxLine
	p.ReadTimeout = s.limits.CommandTimeout
	p.EnableSMTPUTF8 = caps.SMTPUTF8
	p.EnableDSN = caps.DSN
	p.ErrorLog = protocolLog{s.log}
	go func() { _ = p.Serve(f) }() // ends with the front
	return f
}

// sizeLimit is what we announce and take: our own limit, or what the next hop
// takes, if that is less.
func (s *service) sizeLimit(caps relay.Caps) int64 {
	limit := int64(s.config.MessageSizeLimit)
	if caps.Size > 0 {
		limit = min(limit, max(caps.Size-hopRoom, 1))
	}
	return limit
}

// Accept, Close and Addr make a front the net.Listener of go-smtp's server.
func (f *front) Accept() (net.Conn, error) {
	select {
	case c := <-f.conns:
		return c, nil
	case <-f.done:
		return nil, net.ErrClosed
	}
}

func (f *front) Close() error   { return nil }
func (f *front) Addr() net.Addr { return &net.TCPAddr{} }

// protocolLog takes what go-smtp has to say: mostly of clients that went away
// or whose handshake failed, seldom of a panic.
type protocolLog struct{ mailLog }

func (l protocolLog) Printf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if strings.HasPrefix(text, "panic") {
		l.Error("internal error", "err", text)
		return
	}
	l.Debug("connection error", "err", text)
}

func (l protocolLog) Println(args ...any) { l.Printf("%s", fmt.Sprintln(args...)) }
