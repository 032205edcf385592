package server

import (
	"testing"
	"time"
)

// TestQuickAck: a client that waits for acknowledgements (Nagle's algorithm) is
// not kept waiting for one behind its TLS handshake. Without, it takes 40 ms
// each time.
func TestQuickAck(t *testing.T) {
	d := newStand(t, defaultSettings())
	best := time.Hour
	for range 5 {
		c, err := dial(d.address(), STARTTLS)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.raw.SetNoDelay(false); err != nil {
			t.Fatal(err)
		}
		if err := c.secure(); err != nil {
			t.Fatalf("%v\n%s", err, c.transcript())
		}
		begun := time.Now()
		if err := c.converse("EHLO client.example.org", "250"); err != nil {
			t.Fatalf("%v\n%s", err, c.transcript())
		}
		best = min(best, time.Since(begun))
		_ = c.raw.Close()
	}
	if best > 35*time.Millisecond {
		t.Errorf("EHLO behind the handshake takes %v at the best", best)
	}
}
