package server

import (
	"errors"
	"testing"
	"time"
)

// quickly fails if do takes about 40 ms each time: that is what a client with Nagle's
// algorithm waits for an acknowledgement that the system delays. A busy machine may make
// it slow many times.
func quickly(t *testing.T, what string, do func(c *client) (time.Duration, error)) {
	t.Helper()
	d := newTestServer(t, defaultSettings())
	best := time.Hour
	for range 100 {
		c, err := dial(d.address(), STARTTLS)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.raw.SetNoDelay(false); err != nil {
			t.Fatal(err)
		}
		took, err := do(c)
		if err != nil {
			t.Fatalf("%v\n%s", err, c.transcript())
		}
		_ = c.raw.Close()
		if best = min(best, took); best < 35*time.Millisecond {
			return
		}
	}
	t.Errorf("%s takes %v at the best", what, best)
}

func TestQuickAckOfHandshake(t *testing.T) {
	quickly(t, "EHLO after the handshake", func(c *client) (time.Duration, error) {
		if err := c.secure(); err != nil {
			return 0, err
		}
		begun := time.Now()
		err := c.converse("EHLO client.example.org", "250")
		return time.Since(begun), err
	})
}

func TestQuickAckOfMessage(t *testing.T) {
	quickly(t, "a final dot by itself", func(c *client) (time.Duration, error) {
		err := errors.Join(c.login("alice secret"), c.mail("alice@example.org bob@example.org"), c.converse("DATA", "354"))
		if err != nil {
			return 0, err
		}
		begun := time.Now()
		c.pending = "\r\nHello\r\n"
		if err := c.flush(); err != nil {
			return 0, err
		}
		err = c.converse(".", "250")
		return time.Since(begun), err
	})
}
