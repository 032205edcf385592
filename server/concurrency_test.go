package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"postern/server/smtpd"
	"postern/test/kit"
)

// TestConcurrentClients: the errors of one client do not affect others.
func TestConcurrentClients(t *testing.T) {
	d := newTestServer(t, defaultSettings())
	bad := []string{
		"AUTH PLAIN !!!!\r\n", "AUTH PLAIN =\r\n", "=\r\n", "*\r\n", "\r\n",
		"AUTH LOGIN\r\n", "AUTH PLAIN " + strings.Repeat("A", 12289) + "\r\n",
		"AUTH PLAIN AGFsaWNl", "AUTH CRAM-MD5\r\nAUTH PLAIN\r\n*\r\nAUTH LOGIN\r\n", "\x00\xff\r\n",
	}
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			c, err := dial(d.address(), STARTTLS)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.raw.Close()
			if i%2 == 0 {
				misbehave(t, c, bad[i/2%len(bad)])
				return
			}
			user := "alice secret"
			if i%4 == 1 {
				user = "bob other"
			}
			if err := c.login(user); err != nil {
				t.Errorf("%v\n%s", err, c.transcript())
				return
			}
			name, _, _ := strings.Cut(user, " ")
			err = c.converse("MAIL FROM:<"+name+"@example.org>", "250", "RCPT TO:<carol@example.org>", "250",
				"DATA", "354", fmt.Sprintf("X-User: %s\r\n\r\n%d\r\n.", name, i), "250", "NOOP", "250")
			if err != nil {
				t.Errorf("%v\n%s", err, c.transcript())
			}
		})
	}
	all.Wait()
	messages := d.hop.Delivered()
	if len(messages) != 25 {
		t.Errorf("%d messages", len(messages))
	}
	for _, m := range messages {
		name, _, _ := strings.Cut(m.From, "@")
		if !strings.Contains(string(m.Data), "\r\nX-User: "+name+"\r\n") {
			t.Errorf("a message of another user in the name of %s:\n%s", m.From, m.Data)
		}
	}
}

// misbehave sends a bad text after EHLO inside TLS, and nothing more.
func misbehave(t *testing.T, c *client, text string) {
	err := c.secure()
	if err == nil {
		err = c.converse("EHLO client.example.org", "250")
	}
	if err != nil {
		t.Errorf("%v\n%s", err, c.transcript())
		return
	}
	_, _ = io.WriteString(c.tls, text)
}

// TestReloadWhileClientsConnect: connections are opened while the configuration changes.
func TestReloadWhileClientsConnect(t *testing.T) {
	s := defaultSettings()
	d := newTestServer(t, s)
	parts := []Parts{d.assemble(s), d.assemble(s)}
	done := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
				if err := d.server.Reload(parts[i%2]); err != nil {
					t.Error(err)
				}
			}
		}
	})
	for range 20 {
		c := d.join()
		c.must(t, "MAIL FROM:<alice@example.org>", "250", "RCPT TO:<bob@example.org>", "250", "DATA", "354", "\r\n.", "250", "QUIT", "221")
	}
	close(done)
	all.Wait()
}

// TestConcurrentEnds: connections are ended in every way while they go from clear
// text to TLS and on to a message, and while the configuration changes. All slots are
// released.
func TestConcurrentEnds(t *testing.T) {
	s := defaultSettings()
	d := newTestServer(t, s)
	parts := []Parts{d.assemble(s), d.assemble(s)}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 5 {
				c, err := dial(d.address(), STARTTLS)
				if err != nil {
					t.Error(err)
					return
				}
				if c.login("alice secret") == nil { // unless the connection has been ended
					_ = c.converse("MAIL FROM:<alice@example.org>", "250", "RCPT TO:<bob@example.org>", "250",
						"BDAT 4\r\n\r\nx", "250", "BDAT 2 LAST\r\n", "250", "QUIT", "221")
				}
				_ = c.raw.Close()
			}
		})
	}
	ends := []func(*smtpd.Conn){
		func(c *smtpd.Conn) { c.Abort(errDropped) },
		func(c *smtpd.Conn) { c.CloseIdle(replyShuttingDown) },
		func(c *smtpd.Conn) { c.Abort(smtpd.ErrClosed) },
	}
	for i := range 50 {
		if err := d.server.Reload(parts[i%2]); err != nil {
			t.Error(err)
		}
		if n := d.server.anySession(); n != nil {
			ends[i%len(ends)](n.conn)
		}
		time.Sleep(5 * time.Millisecond)
	}
	all.Wait()
	kit.Eventually(t, "all slots are released", func() bool {
		return d.server.limiter.leftover() == ""
	})
}

func (s *Server) anySession() (any *session) {
	s.forEach(func(n *session) { any = n })
	return any
}

// TestShutdownClientThatDoesNotRead: a client that does not read its replies delays a
// shutdown until its connection is aborted, and no longer.
func TestShutdownClientThatDoesNotRead(t *testing.T) {
	d := newTestServer(t, defaultSettings())
	raw, end := tcpPair(t)
	full := &fullConn{Conn: raw, blocked: make(chan struct{}), closed: make(chan struct{})}
	go d.server.listeners[0].serve(full)
	c := newClient(end.(*net.TCPConn), STARTTLS)
	if err := c.login("alice secret"); err != nil {
		t.Fatal(err)
	}
	full.full.Store(true)
	_, _ = io.WriteString(c.tls, "NOOP\r\n")
	<-full.blocked
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := d.server.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v", err)
	}
	if d.server.anySession() != nil {
		t.Error("a connection is left")
	}
}

// A fullConn is a connection to a client that does not read any more, with all buffers
// between both full.
type fullConn struct {
	net.Conn
	full    atomic.Bool
	blocked chan struct{} // closed when the server waits
	closed  chan struct{} // closed when the server closes the connection
}

func (c *fullConn) Write(p []byte) (int, error) {
	if !c.full.Load() {
		return c.Conn.Write(p)
	}
	close(c.blocked)
	<-c.closed
	return 0, net.ErrClosed
}

func (c *fullConn) Close() error {
	if c.full.Swap(false) {
		close(c.closed)
	}
	return c.Conn.Close()
}
