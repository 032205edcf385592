package server

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/test/kit"
)

// flood is more than the buffers between a client and a server that does not
// read take at once.
const flood = 4 << 20

// noCommand is refused, and the fourth one is too many.
const noCommand = "FROBNICATE\r\n"

var toldOff = []string{"500", "500", "500", "500", "421"}

// TestLastWords: a client that looks for replies when it has sent everything, as
// most do, hears why we hang up in the middle of that.
func TestLastWords(t *testing.T) {
	secured := func(c *client) error { return c.login("alice secret") }
	inData := func(c *client) error {
		return errors.Join(c.login("alice secret"), c.mail("alice@example.org bob@example.org"), c.converse("DATA", "354"))
	}
	inMail := func(c *client) error {
		return errors.Join(c.login("alice secret"), c.mail("alice@example.org bob@example.org"))
	}
	inClear := func(c *client) error { return c.converse("", "220", "EHLO client.example.org", "250") }
	behindProxy := func(c *client) error {
		return c.converse("PROXY TCP4 192.0.2.7 198.51.100.1 40000 587", "220", "EHLO client.example.org", "250")
	}
	nonsense := strings.Repeat(noCommand, flood/len(noCommand))
	text := strings.Repeat("0123456789012345678901234567890123456789012345678901234567890123\r\n", flood/66)
	for _, test := range []struct {
		name  string
		mode  Mode
		proxy string
		begin func(*client) error
		said  string
		heard []string
	}{
		{"errors in clear", STARTTLS, "", inClear, nonsense, toldOff},
		{"errors behind a proxy", STARTTLS, "127.0.0.0/8 ::1/128", behindProxy, nonsense, toldOff},
		{"a line without end", STARTTLS, "", inClear, strings.Repeat("x", flood), []string{"500"}},
		{"errors behind STARTTLS", STARTTLS, "", secured, strings.Repeat("AUTH PLAIN\r\n", flood/12), append(slices.Repeat([]string{"503"}, 20), "421")},
		{"a message behind STARTTLS", STARTTLS, "", inData, text, []string{"552", "421"}},
		{"a message behind TLS", TLS, "", inData, text, []string{"552", "421"}},
		{"a chunk", TLS, "", inMail, "BDAT 4000000 LAST\r\n" + text, []string{"552", "421"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := defaultSettings()
			s.Listener.Mode = test.mode
			s.Server.MessageSizeLimit = 64 << 10
			s.Server.ProxyTrusted = mustPrefixes(t, test.proxy)
			d := newPatientStand(t, s)
			c := d.dial()
			if err := test.begin(c); err != nil {
				t.Fatalf("%v\n%s", err, c.transcript())
			}
			if err := c.sendAll(test.said); err != nil {
				t.Fatal(err)
			}
			c.mustHear(t, test.heard...)
		})
	}
}

// TestLastWordsOfShutdown: the same, when the server is stopped; which waits for
// those to whom it has said so.
func TestLastWordsOfShutdown(t *testing.T) {
	d := newPatientStand(t, defaultSettings())
	lingering, busy := d.dial(), d.join()
	lingering.mustBeToldOff(t)
	busy.must(t, "MAIL FROM:<alice@example.org>", "250")
	stopped := make(chan error)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		stopped <- d.server.Shutdown(ctx)
	}()
	<-d.server.accepting.Done()
	kit.Eventually(t, "both are to leave", func() bool {
		return !slices.ContainsFunc(d.server.allConns(), func(c *conn) bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return !c.leaving
		})
	})
	if err := lingering.sendAll(strings.Repeat("NOOP\r\n", flood/6)); err != nil {
		t.Errorf("a client that was told to go before: %v", err)
	}
	if err := busy.sendAll("RSET\r\n" + strings.Repeat("NOOP\r\n", flood/6)); err != nil {
		t.Error(err)
	}
	busy.mustHear(t, "250", "421")
	_, _ = lingering.raw.Close(), busy.raw.Close()
	if err := <-stopped; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

// Who lingers holds a place for as long as we let him, and no longer.
func TestLingeringIsBounded(t *testing.T) {
	const never = time.Hour
	one := func() chan struct{} { return make(chan struct{}, 1) }
	ever := func(c *client) {
		for c.sendAll("NOOP\r\n") == nil {
			time.Sleep(time.Millisecond)
		}
	}
	for _, test := range []struct {
		name   string
		bounds lingering
		then   func(*client)
	}{
		{"silence", lingering{places: one(), most: never, silence: time.Millisecond, bytes: flood}, func(*client) {}},
		{"time", lingering{places: one(), most: time.Millisecond, silence: never, bytes: flood}, ever},
		{"bytes", lingering{places: one(), most: never, silence: never, bytes: 1000}, ever},
		{"places", lingering{most: never, silence: never, bytes: flood}, func(*client) {}},
		{"the client's end", lingering{places: one(), most: never, silence: never, bytes: flood},
			func(c *client) { _ = c.raw.CloseWrite() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newStand(t, defaultSettings())
			*d.server.linger = test.bounds
			c := d.dial()
			c.mustBeToldOff(t)
			test.then(c)
			kit.Eventually(t, "the place is free", d.isEmpty)
		})
	}
}

// A shutdown waits for those who linger no longer than for others.
func TestLingeringIsCut(t *testing.T) {
	d := newPatientStand(t, defaultSettings())
	c := d.dial()
	c.mustBeToldOff(t)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := d.server.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v", err)
	}
	if !d.isEmpty() {
		t.Error("a connection is left")
	}
}

// Whoever has said QUIT, has ended the connection, or is silent has heard us: it
// ends at once.
func TestNoLingering(t *testing.T) {
	for name, end := range map[string]func(*client) error{
		"QUIT":    func(c *client) error { return c.converse("QUIT", "221") },
		"FIN":     (*client).closeWrite,
		"silence": func(c *client) error { return c.converse("", "421") },
	} {
		t.Run(name, func(t *testing.T) {
			s := defaultSettings()
			if name == "silence" {
				s.Server.Limits.CommandTimeout = time.Second
			}
			d := newPatientStand(t, s)
			c := d.join()
			if err := end(c); err != nil {
				t.Fatal(err)
			}
			kit.Eventually(t, "the place is free", d.isEmpty)
		})
	}
}

// newPatientStand waits for clients that linger for as long as a slow machine
// may take.
func newPatientStand(t *testing.T, s settings) *stand {
	d := newStand(t, s)
	d.server.linger.most, d.server.linger.silence = time.Hour, time.Hour
	return d
}

func (d *stand) isEmpty() bool {
	d.server.gate.mu.Lock()
	defer d.server.gate.mu.Unlock()
	return d.server.gate.open == 0
}

// sendAll is for those who take a write that fails for the end.
func (c *client) sendAll(text string) error {
	_ = c.raw.SetWriteDeadline(time.Now().Add(patience))
	_, err := io.WriteString(c.conn(), text)
	return err
}

// mustHear fails the test if the client does not hear replies of these codes, and
// then an orderly end.
func (c *client) mustHear(t *testing.T, codes ...string) {
	t.Helper()
	for _, code := range codes {
		if err := c.expectReply(code); err != nil {
			t.Fatalf("%v\n%s", err, c.transcript())
		}
	}
	if _, err := io.ReadAll(c.in); err != nil {
		t.Errorf("the connection has ended with %v\n%s", err, c.transcript())
	}
}

func (c *client) mustBeToldOff(t *testing.T) {
	t.Helper()
	c.must(t, "", "220")
	if err := c.sendAll(strings.Repeat(noCommand, 4)); err != nil {
		t.Fatal(err)
	}
	c.mustHear(t, toldOff...)
}

func (s *Server) allConns() (all []*conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		all = append(all, c)
	}
	return all
}
