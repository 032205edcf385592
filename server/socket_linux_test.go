package server

import (
	"context"
	"errors"
	"testing"
	"time"

	"postern/server/auth"
	"postern/test/kit"
)

// A waitingStore answers when the context ends.
type waitingStore struct{ asked, left chan struct{} }

func (w waitingStore) VerifyPassword(ctx context.Context, _ *auth.Peer, _, _ string) (auth.Identity, error) {
	w.asked <- struct{}{}
	<-ctx.Done()
	w.left <- struct{}{}
	return auth.Identity{}, ctx.Err()
}

// TestAuthIsAbandoned: an AUTH that waits for a store ends when the client hangs up, and
// a while after a shutdown has begun.
func TestAuthIsAbandoned(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*testServer, *client) error{
		"the client hangs up":   func(_ *testServer, c *client) error { return c.raw.Close() },
		"the server shuts down": func(d *testServer, _ *client) error { return d.server.Shutdown(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := waitingStore{make(chan struct{}), make(chan struct{}, 1)}
			d := newTestServer(t, defaultSettings())
			d.setStore(store)
			c := d.dial()
			if err := c.secure(); err != nil {
				t.Fatal(err)
			}
			c.must(t, "EHLO client.example.org", "250")
			if err := c.sendAll("AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n"); err != nil {
				t.Fatal(err)
			}
			<-store.asked
			if err := end(d, c); err != nil {
				t.Error(err)
			}
			select {
			case <-store.left:
			case <-time.After(patience):
				t.Error("the store is still asked")
			}
			kit.Eventually(t, "it is logged", func() bool { return d.log.Count(`msg="auth abandoned"`) == 1 })
		})
	}
}

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
