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

// hopRoom is left between our SIZE and the next hop's for the header fields that
// we add.
const hopRoom = 8 << 10

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
	receipts     *receipts // nil: duplicates are not suppressed
	overdue      *lateAnswers
	linger       *lingering
	log          mailLog

	mu      sync.Mutex
	caps    relay.Caps // what the hop can do, as the fronts have it
	clear   *front     // for connections in clear text; nil until one comes
	secure  *front     // for those under TLS
	retired bool
}

// A front is go-smtp's server over a service. What EHLO offers stands in its
// unsynchronised fields, so there is one for clear text and one for TLS, and
// they are made anew when the next hop's abilities change. Connections reach it
// one by one through its channel.
type front struct {
	conns chan net.Conn
	done  chan struct{}
}

// serve hands a connection to the front that fits it and the next hop.
func (s *service) serve(w *wire) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if caps := s.hop.Caps(); caps != s.caps {
		s.closeFronts()
		s.caps = caps
	}
	f := &s.clear
	if w.tls != nil {
		f = &s.secure
	}
	if *f == nil {
		*f = s.newFront(w.tls != nil)
	}
	(*f).conns <- w // go-smtp only starts a goroutine for it
	if s.retired {
		s.closeFronts() // a late comer
	}
}

// retire ends the service's own goroutines. Its connections go on.
func (s *service) retire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired = true
	s.closeFronts()
}

func (s *service) closeFronts() {
	for _, f := range []**front{&s.clear, &s.secure} {
		if *f != nil {
			close((*f).done)
			*f = nil
		}
	}
}

func (s *service) newFront(secure bool) *front {
	f := &front{conns: make(chan net.Conn), done: make(chan struct{})}
	p := smtp.NewServer(smtp.BackendFunc(s.newSession))
	p.Domain = s.config.hostname()
	if !secure {
		p.TLSConfig = s.tls // offers STARTTLS, which the wire then answers
	}
	p.AllowInsecureAuth = true // go-smtp does not see TLS; the session refuses AUTH without
	p.MaxRecipients = s.limits.Recipients
	p.MaxMessageBytes = s.sizeLimit(s.caps)
	p.MaxLineLength = 0 // the wire's business, and the cleaner's in a message
	p.ReadTimeout = s.limits.CommandTimeout
	p.EnableSMTPUTF8 = s.caps.SMTPUTF8
	p.EnableDSN = s.caps.DSN
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
