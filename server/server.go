// Package server is the submission server (RFC 6409): it takes messages from
// authenticated clients and hands them to the next hop.
//
// The protocol itself is spoken by github.com/emersion/go-smtp. This package
// adds what that leaves open: listeners, limits and draining (server.go,
// listener.go, gate.go), what lies beneath it (conn.go for the connection and its
// TLS, linger.go for its end, wire.go for commands and replies, body.go for the
// message behind DATA), and the session above it (session.go for MAIL and RCPT,
// sasl.go for AUTH, data.go for the message). duplicates.go remembers what a
// client may send again because it has not seen its 250, fingerprint.go what
// makes two messages the same; once.go puts that to use, and late.go waits for a
// next hop that answers too late. reply.go is the one place where an error
// becomes a text for the client, maillog.go the one where it becomes a line of
// the log.
//
// The server knows nothing of files and formats: cmd/postern builds the parts
// and hands them over.
package server

import (
	"container/list"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"postern/policy"
	"postern/relay"
	"postern/relay/message"
	"postern/server/auth"
)

// Parts is all that a server is made of.
type Parts struct {
	Config       Config
	Listeners    []Listener
	Sockets      map[string][]net.Listener // open already, by listener name; New takes them over
	TLS          *tls.Config
	Auth         auth.Provider
	AuthFailures int                    // AUTH attempts per connection before 421
	Policies     map[string]*policy.Set // by listener name
	Hop          relay.NextHop
	Stage        *message.Stage
	Log          *slog.Logger
}

// A Server accepts clients. Its methods may be called by any goroutine: Listen
// once, then Serve once, Reload and Shutdown at any time after Listen.
type Server struct {
	log         mailLog
	gate        gate
	unannounced gate // whose PROXY header is awaited

	receipts *receipts // for all generations of the configuration
	overdue  *lateAnswers
	linger   *lingering

	accepting context.Context // ends when no more clients are wanted
	stop      context.CancelFunc

	mu        sync.Mutex
	doors     []*door
	conns     map[*conn]*list.Element // its place among the strangers, if it is one
	strangers list.List               // *conn: who came first is in front
	empty     chan struct{}           // closed when stopping and no connection is left
	stopped   bool
	accepts   sync.WaitGroup
}

// New makes a server of its parts. It opens nothing yet.
func New(p Parts) (*Server, error) {
	s := &Server{
		log: newMailLog(p.Log), receipts: newReceipts(), overdue: newLateAnswers(), linger: newLingering(),
		conns: make(map[*conn]*list.Element), empty: make(chan struct{}),
	}
	s.accepting, s.stop = context.WithCancel(context.Background())
	for i := range p.Listeners {
		service, err := s.newService(&p, &p.Listeners[i])
		if err != nil {
			return nil, err
		}
		d := &door{server: s, listener: p.Listeners[i], sockets: p.Sockets[p.Listeners[i].Name]}
		d.service.Store(service)
		s.doors = append(s.doors, d)
	}
	return s, nil
}

func (s *Server) newService(p *Parts, l *Listener) (*service, error) {
	set := p.Policies[l.Name]
	if set == nil {
		return nil, fmt.Errorf("server: listener %q has no policy", l.Name)
	}
	made := &service{
		config:       &p.Config,
		listener:     l,
		limits:       l.Limits.over(p.Config.Limits),
		authFailures: p.AuthFailures,
		tls:          p.TLS,
		auth:         p.Auth,
		policy:       set,
		hop:          p.Hop,
		stage:        p.Stage,
		overdue:      s.overdue,
		linger:       s.linger,
		log:          mailLog{Logger: p.Log, limit: s.log.limit}, // one account, whoever sweeps it
	}
	if p.Config.SuppressDuplicates {
		made.receipts = s.receipts
	}
	return made, nil
}

// Listen binds every address of the listeners that have no socket yet. It is apart from Serve so that root can be given
// up in between.
func (s *Server) Listen() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.doors {
		if err := d.listen(); err != nil {
			for _, d := range s.doors {
				d.close()
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
	for _, d := range s.doors {
		for _, l := range d.sockets {
			addrs[d.listener.Name] = append(addrs[d.listener.Name], l.Addr())
		}
	}
	return addrs
}

// Serve accepts clients until Shutdown, and then returns nil.
func (s *Server) Serve() error {
	s.mu.Lock()
	for _, d := range s.doors {
		for _, l := range d.sockets {
			s.log.listening(d.listener.Name, l.Addr().String(), d.listener.Mode)
			s.accepts.Go(func() { d.accept(l) })
		}
	}
	s.mu.Unlock()
	s.accepts.Wait()
	return nil
}

// Reload lets new parts serve the connections that come from now on; those
// that are open keep the old ones. The sockets stay: what would need others is
// logged.
func (s *Server) Reload(p Parts) error {
	fresh := make(map[string]*service)
	for i := range p.Listeners {
		service, err := s.newService(&p, &p.Listeners[i])
		if err != nil {
			return err
		}
		fresh[p.Listeners[i].Name] = service
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.doors {
		service := fresh[d.listener.Name]
		delete(fresh, d.listener.Name)
		if service == nil || !slices.Equal(service.listener.Address, d.listener.Address) || service.listener.Mode != d.listener.Mode {
			s.log.Warn("restart needed", "listener", d.listener.Name, "reason", "its address or mode has changed, or it is gone")
		}
		if service != nil && service.listener.Mode == d.listener.Mode {
			d.service.Swap(service).retire()
		}
	}
	for name := range fresh {
		s.log.Warn("restart needed", "listener", name, "reason", "it is new")
	}
	return nil
}

// Shutdown closes the listeners, says 421 to every idle client, and waits for
// transactions in flight until ctx ends; then it cuts what is left. The error
// is ctx's if something had to be cut.
func (s *Server) Shutdown(ctx context.Context) error {
	defer s.overdue.close()
	s.stopAccepting()
	s.mu.Lock()
	for c := range s.conns {
		c.drain()
	}
	s.mu.Unlock()
	select {
	case <-s.empty:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	for c := range s.conns {
		c.cut()
	}
	s.mu.Unlock()
	select {
	case <-s.empty:
	case <-time.After(5 * time.Second):
	}
	return ctx.Err()
}

func (s *Server) stopAccepting() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return
	}
	s.stopped = true
	s.stop()
	for _, d := range s.doors {
		d.close()
		d.service.Load().retire()
	}
	if len(s.conns) == 0 {
		close(s.empty)
	}
}

// add keeps account of an open connection; it reports false when the server
// is stopping.
func (s *Server) add(c *conn, stranger bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return false
	}
	s.conns[c] = nil
	if stranger {
		s.conns[c] = s.strangers.PushBack(c)
	}
	return true
}

// known notes that a connection is no stranger any more.
func (s *Server) known(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if place := s.conns[c]; place != nil {
		s.strangers.Remove(place)
		s.conns[c] = nil
	}
}

func (s *Server) remove(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if place := s.conns[c]; place != nil {
		s.strangers.Remove(place)
	}
	delete(s.conns, c)
	if s.stopped && len(s.conns) == 0 {
		close(s.empty)
	}
}

// minStay is how long a stranger is left in peace: time enough to log in.
const minStay = 5 * time.Second

// dropOldestStranger makes room for a client by ending the connection that has
// gone without a login for longest. Who fills the places with connections that
// say nothing would otherwise keep everybody out.
func (s *Server) dropOldestStranger() bool {
	oldest := s.cutOldestStranger()
	if oldest == nil {
		return false
	}
	oldest.log.dropped()
	oldest.drop()
	return true
}

// cutOldestStranger does it under the lock that known waits for: whoever logs in
// at this moment is past it and stays, or does not hear that it has.
func (s *Server) cutOldestStranger() *conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	place := s.strangers.Front()
	if place == nil {
		return nil
	}
	oldest := place.Value.(*conn)
	if time.Since(oldest.begun) < minStay {
		return nil
	}
	s.strangers.Remove(place) // or another would think that it makes room, too
	s.conns[oldest] = nil
	oldest.cut()
	return oldest
}
