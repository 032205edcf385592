package server

import (
	"context"
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
