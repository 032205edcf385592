package relay

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// probeUser is nobody's login.
const probeUser = "\x00probe"

// A Hop is one next hop with its connections and its state of health. It may
// be used by many goroutines at once.
type Hop struct {
	pool    *pool
	log     *slog.Logger
	probing chan struct{} // holds one while a probe runs

	mu    sync.Mutex
	caps  Caps
	asked time.Time // when caps were learned
	down  bool      // the last attempt to connect failed
}

func newHop(p *pool, log *slog.Logger) *Hop {
	return &Hop{pool: p, log: log, probing: make(chan struct{}, 1)}
}

// String is the hop's URL.
func (h *Hop) String() string { return h.pool.peer.url.String() }

// Caps is what the hop offered last.
func (h *Hop) Caps() Caps {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.caps
}

func (h *Hop) isDown() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.down
}

func (h *Hop) wantsProbe() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.down || time.Since(h.asked) > oldCaps
}

// connect gets a connection for user; fresh wants it to be new.
func (h *Hop) connect(ctx context.Context, user string, fresh bool) (*conn, error) {
	get := h.pool.get
	if fresh {
		get = h.pool.fresh
	}
	c, err := get(ctx, user)
	switch {
	case err != nil:
		h.failed(ctx, err)
	case !c.reused:
		h.answered(c.caps)
	}
	return c, err
}

// probe asks the hop what it can do, or waits for one who is doing so.
func (h *Hop) probe(ctx context.Context) {
	start := time.Now()
	select {
	case h.probing <- struct{}{}:
		defer func() { <-h.probing }()
	case <-ctx.Done():
		return
	}
	if h.askedSince(start) {
		return
	}
	if c, err := h.connect(ctx, probeUser, true); err == nil {
		h.pool.put(c)
	}
}

func (h *Hop) askedSince(t time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.asked.After(t)
}

// failed notes that the hop could not be reached. That we have no connection
// to spare, or that the caller has gone, says nothing about the hop.
func (h *Hop) failed(ctx context.Context, err error) {
	if errors.Is(err, errBusy) || errors.Is(err, errClosed) || errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.down {
		h.down = true
		h.log.Warn("next hop down", "hop", h.String(), "err", err)
	}
}

func (h *Hop) answered(caps Caps) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down {
		h.down = false
		h.log.Info("next hop up", "hop", h.String())
	}
	h.caps, h.asked = caps, time.Now()
}
