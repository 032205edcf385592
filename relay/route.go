package relay

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	// tick is how often hops that are down are probed, so that no message has to wait
	// for them, and how often idle connections are checked for their age.
	tick = 5 * time.Second

	// oldCaps is the age at which the extensions of a hop are asked for again, if no new
	// connection has been made.
	oldCaps = 5 * time.Minute
)

// A Router is the NextHop that sends to the first of several hops, and to the others
// while that one is down or fails. It may be used by many goroutines at once.
type Router struct {
	cfg    Config
	events Events
	hops   []*Hop

	stop context.CancelFunc
	done chan struct{}
}

// New makes the router for cfg, which must have passed Validate, and reads the files that
// cfg names. The hops are probed in the background; call Probe to wait for the result.
// Close ends the router.
func New(cfg Config, events Events) (*Router, error) {
	r := &Router{cfg: cfg, events: events, done: make(chan struct{})}
	for _, u := range cfg.NextHops {
		p, err := newPeer(u, &cfg)
		if err != nil {
			return nil, err
		}
		r.hops = append(r.hops, newHop(newPool(p, cfg.Pool, events), events))
	}
	var ctx context.Context
	ctx, r.stop = context.WithCancel(context.Background())
	go r.maintain(ctx)
	return r, nil
}

// Close ends the background work and the idle connections. Call it after the last
// transaction; a transaction that is still open may fail.
func (r *Router) Close() error {
	r.stop()
	<-r.done
	for _, h := range r.hops {
		h.pool.close()
	}
	return nil
}

// Begin implements NextHop.
func (r *Router) Begin(_ context.Context, e *Envelope) (Transaction, error) {
	select {
	case <-r.done:
		return nil, errClosed
	default:
	}
	user := e.Login
	if user == "" {
		user = "\x00" + e.Remote.Addr().String() // not equal to any login
	}
	return &transaction{router: r, env: e, user: user, patience: r.cfg.Patience}, nil
}

// Caps implements NextHop: what every hop that has been reached so far offers. For a hop
// that is down, this is what it offered last.
func (r *Router) Caps() Caps {
	var all Caps
	for _, h := range r.hops {
		h.mu.Lock()
		c := h.caps
		h.mu.Unlock()
		if !c.Known {
			continue
		}
		if !all.Known {
			all = c
			continue
		}
		if c.Size > 0 && (all.Size == 0 || c.Size < all.Size) {
			all.Size = c.Size
		}
		all.DSN = all.DSN && c.DSN
		all.SMTPUTF8 = all.SMTPUTF8 && c.SMTPUTF8
		all.EightBit = all.EightBit && c.EightBit
	}
	return all
}

// Hops returns the hops in the order of the configuration.
func (r *Router) Hops() []*Hop { return append([]*Hop(nil), r.hops...) }

// choose returns the next hop to try for a transaction in which the hops have failed this
// often: the hop with the fewest failures, where being down counts as one failure; among
// equals the first in the configuration.
func (r *Router) choose(failures map[*Hop]int) *Hop {
	best, least := r.hops[0], -1
	for _, h := range r.hops {
		score := failures[h]
		h.mu.Lock()
		if h.down {
			score++
		}
		h.mu.Unlock()
		if least < 0 || score < least {
			best, least = h, score
		}
	}
	return best
}

// maintain runs until Close.
func (r *Router) maintain(ctx context.Context) {
	defer close(r.done)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		r.each(func(h *Hop) {
			h.pool.sweep(h.pool.cfg.IdleTime)
			h.mu.Lock()
			due := h.down || time.Since(h.asked) > oldCaps
			h.mu.Unlock()
			if due {
				h.probe(ctx)
			}
		})
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Probe connects to every hop and asks for its extensions. It returns when all have
// replied or failed, or when ctx ends. The result is in Caps and in the events.
func (r *Router) Probe(ctx context.Context) {
	r.each(func(h *Hop) { h.probe(ctx) })
}

func (r *Router) each(do func(*Hop)) {
	var all sync.WaitGroup
	for _, h := range r.hops {
		all.Go(func() { do(h) })
	}
	all.Wait()
}

// probeUser is the user of a probe. No login can be equal to it.
const probeUser = "\x00probe"

// A Hop is one next hop with its connections, and whether it is up. It may be used by
// many goroutines at once.
type Hop struct {
	pool    *pool
	events  Events
	probing chan struct{} // holds one while a probe runs

	mu    sync.Mutex
	caps  Caps      // what it offered last
	asked time.Time // when caps were received
	down  bool      // the last attempt to connect failed
}

func newHop(p *pool, events Events) *Hop {
	return &Hop{pool: p, events: events, probing: make(chan struct{}, 1)}
}

// String returns the hop's URL.
func (h *Hop) String() string { return h.pool.peer.url.String() }

// connect returns a connection of the pool, and records whether the hop is up. It is not
// the hop's failure if all connections are in use or if the caller has given up.
func (h *Hop) connect(ctx context.Context, user string, fresh bool) (*conn, error) {
	c, err := h.pool.get(ctx, user, fresh)
	switch {
	case err == nil && c.reused:
	case err == nil:
		h.answered(c.caps)
	case errors.Is(err, errBusy) || errors.Is(err, errClosed) || errors.Is(ctx.Err(), context.Canceled):
	default:
		h.mu.Lock()
		defer h.mu.Unlock()
		if !h.down {
			h.down = true
			h.events.HopDown(h.String(), err)
		}
	}
	return c, err
}

// answered records that the hop is up, and what it offers.
func (h *Hop) answered(caps Caps) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down {
		h.down = false
		h.events.HopUp(h.String())
	}
	h.caps, h.asked = caps, time.Now()
}

// probe asks the hop for its extensions. If another probe is running, it waits for that
// one instead.
func (h *Hop) probe(ctx context.Context) {
	start := time.Now()
	select {
	case h.probing <- struct{}{}:
		defer func() { <-h.probing }()
	case <-ctx.Done():
		return
	}
	h.mu.Lock()
	done := h.asked.After(start)
	h.mu.Unlock()
	if done {
		return
	}
	if c, err := h.connect(ctx, probeUser, true); err == nil {
		h.pool.put(c)
	}
}
