package server

import (
	"context"
	"net"
	"testing"
	"time"

	"postern/server/auth"
	"postern/test/kit"
)

// TestHungUp: the end of a connection is seen behind what was sent before it.
func TestHungUp(t *testing.T) {
	for name, end := range map[string]func(net.Conn){
		"FIN": func(c net.Conn) { _ = c.(*net.TCPConn).CloseWrite() },
		"RST": func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0); _ = c.Close() },
	} {
		here, there := tcpPair(t)
		if _, err := there.Write([]byte("something")); err != nil {
			t.Fatal(err)
		}
		if hungUp(here) {
			t.Errorf("%s: it has not come yet", name)
		}
		end(there)
		kit.Eventually(t, name+" is seen", func() bool { return hungUp(here) })
	}
}

// waiting is a store that says nothing until nobody wants to know any more.
type waiting struct{ asked, left chan struct{} }

func (w waiting) VerifyPassword(ctx context.Context, _ *auth.Peer, _, _ string) (auth.Identity, error) {
	w.asked <- struct{}{}
	<-ctx.Done()
	w.left <- struct{}{}
	return auth.Identity{}, ctx.Err()
}

// TestAuthIsAbandoned: a client that hangs up while it waits for the outcome of
// its AUTH does not keep its place, and neither does one that keeps us from
// shutting down.
func TestAuthIsAbandoned(t *testing.T) {
	for name, end := range map[string]func(*stand, *client){
		"the client hangs up": func(_ *stand, c *client) { _ = c.raw.Close() },
		"the server shuts down": func(d *stand, _ *client) {
			if err := d.server.Shutdown(context.Background()); err != nil {
				t.Error(err)
			}
		},
	} {
		store := waiting{make(chan struct{}), make(chan struct{}, 1)}
		d := newStand(t, defaultSettings())
		parts := d.parts
		parts.Auth = auth.Local{Passwords: store}
		if err := d.server.Reload(parts); err != nil {
			t.Fatal(err)
		}
		c, err := dial(d.address(), STARTTLS)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.secure(); err != nil {
			t.Fatal(err)
		}
		c.must(t, "EHLO client.example.org", "250")
		c.pending = "AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n"
		if err := c.flush(); err != nil {
			t.Fatal(err)
		}
		<-store.asked
		end(d, c)
		select {
		case <-store.left:
		case <-time.After(patience):
			t.Errorf("%s: the store is still asked", name)
		}
		kit.Eventually(t, name+": it is logged", func() bool { return d.log.count(`msg="auth abandoned"`) == 1 })
	}
}
