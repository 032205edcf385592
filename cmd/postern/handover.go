package main

import (
	"context"
	"sync"

	"postern/relay"
	"postern/server/auth"
)

// A handover returns the newest of several values, and ends each older one when its last
// user is done. So a reload replaces stores and next hops at once, for open sessions,
// too, and interrupts none. It is used by many goroutines at once.
type handover[T any] struct {
	mu  sync.Mutex
	now *shift[T]
}

// A shift is one value and the number of its users.
type shift[T any] struct {
	value T
	end   func()
	users int
	over  bool
}

// set replaces the value. end is called once, when the new value is neither the newest
// nor in use any more.
func (h *handover[T]) set(value T, end func()) {
	h.mu.Lock()
	old := h.now
	h.now = &shift[T]{value: value, end: sync.OnceFunc(end)}
	h.mu.Unlock()
	h.retire(old)
}

// finish ends the newest value as soon as it is not in use. A later take returns that
// ended value.
func (h *handover[T]) finish() {
	h.mu.Lock()
	last := h.now
	h.mu.Unlock()
	h.retire(last)
}

func (h *handover[T]) retire(s *shift[T]) {
	if s == nil {
		return
	}
	h.mu.Lock()
	idle := !s.over && s.users == 0
	s.over = true
	h.mu.Unlock()
	if idle {
		s.end()
	}
}

// take returns the newest value. The caller must call release at the end of its use;
// further calls have no effect.
func (h *handover[T]) take() (value T, release func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.now
	s.users++
	return s.value, sync.OnceFunc(func() {
		h.mu.Lock()
		s.users--
		idle := s.over && s.users == 0
		h.mu.Unlock()
		if idle {
			s.end()
		}
	})
}

// A currentHop is the next hop of all sessions for the life of the process.
// Each transaction uses the hop that was the newest when it began.
type currentHop struct{ handover[relay.NextHop] }

func (h *currentHop) Caps() relay.Caps {
	hop, release := h.take()
	defer release()
	return hop.Caps()
}

func (h *currentHop) Begin(ctx context.Context, e *relay.Envelope) (relay.Transaction, error) {
	hop, release := h.take()
	t, err := hop.Begin(ctx, e)
	if err != nil {
		release()
		return nil, err
	}
	return &heldTransaction{t, release}, nil
}

type heldTransaction struct {
	relay.Transaction
	release func()
}

func (t *heldTransaction) Close() error {
	defer t.release()
	return t.Transaction.Close()
}

// A currentProvider is the auth.Provider of all sessions for the life of the
// process. A user who is removed from a store cannot log in after that.
type currentProvider struct{ handover[auth.Provider] }

func (p *currentProvider) Mechanisms(peer *auth.Peer) []string {
	provider, release := p.take()
	defer release()
	return provider.Mechanisms(peer)
}

func (p *currentProvider) Start(ctx context.Context, peer *auth.Peer, mech string) (auth.Exchange, error) {
	provider, release := p.take()
	e, err := provider.Start(ctx, peer, mech)
	if err != nil {
		release()
		return nil, err
	}
	return &heldExchange{e, release}, nil
}

type heldExchange struct {
	auth.Exchange
	release func()
}

func (e *heldExchange) Close() error {
	defer e.release()
	return e.Exchange.Close()
}
