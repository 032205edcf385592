package server

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestCrowd: what one client does wrong is nobody else's trouble.
func TestCrowd(t *testing.T) {
	d := newStand(t, defaultSettings())
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
			t.Errorf("a message of another in the name of %s:\n%s", m.From, m.Data)
		}
	}
}

// misbehave says something wrong after TLS, and goes away without a word.
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

// TestReloadInACrowd: connections come while the configuration changes.
func TestReloadInACrowd(t *testing.T) {
	s := defaultSettings()
	d := newStand(t, s)
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

// TestShutdownDeafClient: a client that does not read its replies holds up a
// shutdown until it is cut, and no longer.
func TestShutdownDeafClient(t *testing.T) {
	d := newStand(t, defaultSettings())
	c := d.join()
	// More replies than the buffers of both sockets take.
	hello := "EHLO " + strings.Repeat("x", 4000) + "\r\n"
	_ = c.raw.SetReadBuffer(4096)
	_ = c.raw.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
	for err := error(nil); err == nil; {
		_, err = io.WriteString(c.tls, hello)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	begun := time.Now()
	if err := d.server.Shutdown(ctx); err == nil {
		t.Error("Shutdown did not have to cut it")
	}
	if took := time.Since(begun); took > 4*time.Second {
		t.Errorf("Shutdown took %s", took)
	}
}
