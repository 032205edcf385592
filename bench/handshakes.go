package main

import (
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// handshakes counts the TLS handshakes of a round's clients. It shows whether
// they did what -hybrid and -resume ask for, which depends on the server, too.
// Its methods may be called concurrently.
type handshakes struct {
	mu      sync.Mutex
	all     int
	resumed int
	groups  map[tls.CurveID]int // by key exchange
}

func (h *handshakes) add(state tls.ConnectionState) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all++
	if state.DidResume {
		h.resumed++
	}
	if h.groups == nil {
		h.groups = make(map[tls.CurveID]int)
	}
	h.groups[state.CurveID]++
}

// String lists the key exchanges and the share of resumed sessions, such as
// "X25519, 99.8 % of 1,200 resumed".
func (h *handshakes) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.all == 0 {
		return "no handshake"
	}
	var names []string
	for group := range h.groups {
		names = append(names, group.String())
	}
	slices.Sort(names)
	return fmt.Sprintf("%s, %.1f %% of %d resumed", strings.Join(names, " and "), 100*float64(h.resumed)/float64(h.all), h.all)
}
