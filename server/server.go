// Package server is the submission server (RFC 6409): it accepts messages from
// authenticated clients and relays them to the next hop.
//
// Package smtpd speaks the protocol. This package has what surrounds it, and the
// decisions:
//
//	config    the sections [server] and [[listener]]
//	server    the parts, reload and shutdown
//	listener  sockets, and what the connections of a listener share
//	proxy     the header of the PROXY protocol, and what it says about the client
//	limiter   limits of connections, and which one is dropped to make room
//	admission which limits a connection counts for, before and after the login
//	session   AUTH, MAIL, RCPT, and the end of a session
//	data      the message: staged, checked, its header put in order, relayed
//	header    fix-ups of the header, and the Received field
//	reply     errors become replies
//	events    what the log and the metrics need to know; a bound on what is logged
//
// The server reads no configuration: cmd/postern/internal/app builds the parts.
package server

import (
	"context"
	"crypto/tls"
	"net"
	"slices"
	"sync"
	"time"

	"postern/policy"
	"postern/relay"
	"postern/relay/message"
	"postern/server/auth"
	"postern/server/smtpd"
)

// Parts is what a server is made of.
type Parts struct {
	Config    Config
	Listeners []ListenerParts
	Sockets   map[string][]net.Listener // open already, by listener name; New takes them over
	Stage     *message.Stage
	Events    Events // the same in every Reload
}

// ListenerParts is what one listener is made of. A connection keeps all of it until it
// ends, also after a Reload, except for the Services.
type ListenerParts struct {
	Listener
	TLS          *tls.Config
	AuthFailures int // AUTH attempts per connection before 421
	Policy       *policy.Set
	Users        string // names the stores if they are not the shared ones: their users are others

	// Services returns the newest services, which the caller uses until it calls release,
	// exactly once. A session acquires them at EHLO, for as long as it asks what to
	// offer, for each AUTH, until the exchange is closed, and for each message, from the
	// first RCPT to the end of the transaction. So new stores and hops take effect for
	// open connections, too, and a change interrupts nothing. It is called by many
	// goroutines at once, and must not block.
	Services func() (s Services, release func())

	// Unused, if it is not nil, is called once, when Reload has replaced these parts, or
	// cannot use them without a restart, and the last connection with them has ended. The
	// owner of the Policy may close it then. It must not block.
	Unused func()
}

// Services are the stores and the next hop of one generation of the configuration.
type Services struct {
	Auth auth.Provider
	Hop  relay.NextHop
}

// A Server accepts clients. Its methods may be called by any goroutine: Listen
// once, then Serve once, Reload and Shutdown at any time after Listen.
type Server struct {
	events       Events
	limiter      connLimiter
	proxyPending connLimiter // connections whose PROXY header has not been received
	refused      connLimiter // connections that are refused inside TLS

	linger *smtpd.Linger

	accepting context.Context // ends when no more connections are accepted
	stop      context.CancelFunc
	verifying context.Context // ends the verifications that continue after their client has hung up
	endVerify context.CancelFunc

	mu            sync.Mutex
	listeners     []*listener
	sessions      map[*session]struct{}
	verifications int           // that run; their sessions may have ended
	empty         chan struct{} // closed when stopped, and no session and no verification is left
	stopped       bool
	accepts       sync.WaitGroup
}

// New makes a server of its parts. It opens nothing yet.
func New(p Parts) (*Server, error) {
	s := &Server{
		events: p.Events, linger: smtpd.NewLinger(),
		sessions: make(map[*session]struct{}), empty: make(chan struct{}),
	}
	s.accepting, s.stop = context.WithCancel(context.Background())
	s.verifying, s.endVerify = context.WithCancel(context.Background())
	for i := range p.Listeners {
		l := &listener{server: s, config: p.Listeners[i].Listener, sockets: p.Sockets[p.Listeners[i].Name]}
		made, err := s.newSnapshot(&p, &p.Listeners[i], l)
		if err != nil {
			return nil, err
		}
		l.snapshot.Store(made)
		s.listeners = append(s.listeners, l)
	}
	return s, nil
}

// Listen binds every address of the listeners that have no socket yet. It is apart
// from Serve so that root privileges can be dropped in between.
func (s *Server) Listen() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.listeners {
		if err := l.listen(); err != nil {
			for _, l := range s.listeners {
				l.close()
			}
			return err
		}
	}
	return nil
}

// Addrs returns the bound addresses by listener name.
func (s *Server) Addrs() map[string][]net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	addrs := make(map[string][]net.Addr)
	for _, l := range s.listeners {
		for _, socket := range l.sockets {
			addrs[l.config.Name] = append(addrs[l.config.Name], socket.Addr())
		}
	}
	return addrs
}

// Serve accepts clients until Shutdown, and then returns nil.
func (s *Server) Serve() error {
	s.mu.Lock()
	for _, l := range s.listeners {
		for _, socket := range l.sockets {
			s.events.Listening(l.config.Name, socket.Addr().String(), l.config.Mode)
			s.accepts.Go(func() { l.accept(socket) })
		}
	}
	s.mu.Unlock()
	s.accepts.Wait()
	return nil
}

// Reload has new parts serve the connections that come from now on; open
// connections keep the old ones. The sockets stay: what would need others is logged.
func (s *Server) Reload(p Parts) error {
	fresh := make(map[string]*snapshot)
	for i := range p.Listeners {
		made, err := s.newSnapshot(&p, &p.Listeners[i], nil)
		if err != nil {
			return err
		}
		fresh[p.Listeners[i].Name] = made
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.listeners {
		made := fresh[l.config.Name]
		delete(fresh, l.config.Name)
		if made == nil || !slices.Equal(made.parts.Address, l.config.Address) || made.parts.Mode != l.config.Mode {
			s.events.RestartNeeded(l.config.Name, "its address or mode has changed, or it is gone")
		}
		switch {
		case made == nil:
		case made.parts.Mode == l.config.Mode:
			made.listener = l
			l.snapshot.Swap(made).retire()
		default:
			made.retire() // it will not be used
		}
	}
	for name, made := range fresh {
		s.events.RestartNeeded(name, "it is new")
		made.retire()
	}
	return nil
}

// Shutdown closes the listeners, sends 421 to every idle client, and waits for
// transactions in flight until ctx ends; then it aborts what is left. Verifications whose
// client has hung up end after a short time without an outcome. The error is ctx's if
// something had to be aborted.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stopAccepting()
	s.forEach(func(n *session) { n.conn.CloseIdle(replyShuttingDown) })
	defer time.AfterFunc(verifyGrace, s.endVerify).Stop()
	defer s.endVerify()
	select {
	case <-s.empty:
		return nil
	case <-ctx.Done():
	}
	s.endVerify()
	s.forEach(func(n *session) { n.conn.Abort(smtpd.ErrClosed) })
	select {
	case <-s.empty:
	case <-time.After(5 * time.Second):
	}
	return ctx.Err()
}

func (s *Server) forEach(do func(*session)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := range s.sessions {
		do(n)
	}
}

func (s *Server) stopAccepting() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return
	}
	s.stopped = true
	s.stop()
	for _, l := range s.listeners {
		l.close()
	}
	s.closeIfEmpty()
}

// closeIfEmpty ends the wait of Shutdown. The caller holds the lock, and has ended a session
// or a verification, or stopped the server.
func (s *Server) closeIfEmpty() {
	if s.stopped && len(s.sessions) == 0 && s.verifications == 0 {
		close(s.empty)
	}
}

// verifyGrace is how long a verification may continue after the begin of a shutdown. smtpd
// gives an AUTH of a connected client the same time.
const verifyGrace = 2 * time.Second

// beginVerification counts a verification of a session that has not ended yet.
func (s *Server) beginVerification() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.verifications++
}

func (s *Server) endVerification() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.verifications--
	s.closeIfEmpty()
}

// add registers a session. It reports false when the server is stopping.
func (s *Server) add(n *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return false
	}
	s.sessions[n] = struct{}{}
	return true
}

func (s *Server) remove(n *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, n)
	s.closeIfEmpty()
}
