package server

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/server/smtpd"
	"postern/test/kit"
)

// flood is more than the buffers between a client and a server that does not
// read take at once.
const flood = 4 << 20

// noCommand is refused, and the twentieth one is too many.
const noCommand = "FROBNICATE\r\n"

// tooManyErrors are the replies to twenty and more of them.
var tooManyErrors = append(slices.Repeat([]string{"500"}, 20), "421")

// TestLastReply: a client that reads replies only after it has sent everything, as most
// do, receives the reason for which the server closes the connection meanwhile.
func TestLastReply(t *testing.T) {
	secured := func(c *client) error { return c.login("alice secret") }
	inData := func(c *client) error {
		return errors.Join(c.login("alice secret"), c.mail("alice@example.org bob@example.org"), c.converse("DATA", "354"))
	}
	inMail := func(c *client) error {
		return errors.Join(c.login("alice secret"), c.mail("alice@example.org bob@example.org"))
	}
	inClear := func(c *client) error { return c.converse("", "220", "EHLO client.example.org", "250") }
	proxied := func(c *client) error {
		return c.converse("PROXY TCP4 192.0.2.7 198.51.100.1 40000 587", "220", "EHLO client.example.org", "250")
	}
	nonsense := strings.Repeat(noCommand, flood/len(noCommand))
	text := strings.Repeat("0123456789012345678901234567890123456789012345678901234567890123\r\n", flood/66)
	for _, test := range []struct {
		name  string
		mode  Mode
		proxy string
		begin func(*client) error
		text  string
		codes []string
	}{
		{"errors in clear", STARTTLS, "", inClear, nonsense, tooManyErrors},
		{"errors by way of a proxy", STARTTLS, "127.0.0.0/8 ::1/128", proxied, nonsense, tooManyErrors},
		{"a line without end", STARTTLS, "", inClear, strings.Repeat("x", flood), []string{"500"}},
		{"errors after STARTTLS", STARTTLS, "", secured, strings.Repeat("AUTH PLAIN\r\n", flood/12), append(slices.Repeat([]string{"503"}, 20), "421")},
		{"a message after STARTTLS", STARTTLS, "", inData, text, []string{"552", "421"}},
		{"a message in TLS", TLS, "", inData, text, []string{"552", "421"}},
		{"a chunk", TLS, "", inMail, "BDAT 4000000 LAST\r\n" + text, []string{"552", "421"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := defaultSettings()
			s.Listener.Mode = test.mode
			s.Server.MessageSizeLimit = 64 << 10
			s.Server.ProxyTrusted = mustPrefixes(t, test.proxy)
			d := newLingeringServer(t, s)
			c := d.dial()
			if err := test.begin(c); err != nil {
				t.Fatalf("%v\n%s", err, c.transcript())
			}
			if err := c.sendAll(test.text); err != nil {
				t.Fatal(err)
			}
			c.mustReceive(t, test.codes...)
		})
	}
}

// TestLastReplyOfShutdown: the same for a shutdown, which waits for clients that have
// received their last reply to close the connection.
func TestLastReplyOfShutdown(t *testing.T) {
	d := newLingeringServer(t, defaultSettings())
	lingering, busy := d.dial(), d.join()
	lingering.makeErrors(t)
	busy.must(t, "MAIL FROM:<alice@example.org>", "250")
	stopped, err := d.beginShutdown(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if err := lingering.sendAll(strings.Repeat("NOOP\r\n", flood/6)); err != nil {
		t.Errorf("a client with too many errors: %v", err)
	}
	if err := busy.sendAll("RSET\r\n" + strings.Repeat("NOOP\r\n", flood/6)); err != nil {
		t.Error(err)
	}
	busy.mustReceive(t, "250", "421")
	_, _ = lingering.raw.Close(), busy.raw.Close()
	if err := <-stopped; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

// TestLingeringIsBounded: a connection that lingers holds its slot up to the first bound.
func TestLingeringIsBounded(t *testing.T) {
	const never = time.Hour
	send := func(c *client) {
		for c.sendAll("NOOP\r\n") == nil {
			time.Sleep(time.Millisecond)
		}
	}
	for _, test := range []struct {
		name   string
		bounds smtpd.Linger
		then   func(*client)
	}{
		{"idle", smtpd.Linger{MaxTotal: never, MaxIdle: time.Millisecond, MaxBytes: flood}, func(*client) {}},
		{"total", smtpd.Linger{MaxTotal: time.Millisecond, MaxIdle: never, MaxBytes: flood}, send},
		{"octets", smtpd.Linger{MaxTotal: never, MaxIdle: never, MaxBytes: 1000}, send},
		{"the end of the client", smtpd.Linger{MaxTotal: never, MaxIdle: never, MaxBytes: flood},
			func(c *client) { _ = c.raw.CloseWrite() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newTestServer(t, defaultSettings())
			l := d.server.linger
			l.MaxTotal, l.MaxIdle, l.MaxBytes = test.bounds.MaxTotal, test.bounds.MaxIdle, test.bounds.MaxBytes
			c := d.dial()
			c.makeErrors(t)
			test.then(c)
			kit.Eventually(t, "the slot is released", d.isEmpty)
		})
	}
}

// TestLingeringIsCut: a shutdown waits no longer for connections that linger than for
// others.
func TestLingeringIsCut(t *testing.T) {
	d := newLingeringServer(t, defaultSettings())
	c := d.dial()
	c.makeErrors(t)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := d.server.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v", err)
	}
	if !d.isEmpty() {
		t.Error("a connection is left")
	}
}

// TestNoLingering: a client that has sent QUIT, has ended the connection or is silent
// loses no reply, so the connection is closed at once.
func TestNoLingering(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*client) error{
		"QUIT":    func(c *client) error { return c.converse("QUIT", "221") },
		"FIN":     (*client).closeWrite,
		"silence": func(c *client) error { return c.converse("", "421") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := defaultSettings()
			if name == "silence" {
				s.Server.Limits.CommandTimeout = time.Second
			}
			d := newLingeringServer(t, s)
			c := d.join()
			if err := end(c); err != nil {
				t.Fatal(err)
			}
			kit.Eventually(t, "the slot is released", d.isEmpty)
		})
	}
}

// newLingeringServer lingers for any time that a slow machine may take.
func newLingeringServer(t *testing.T, s settings) *testServer {
	d := newTestServer(t, s)
	d.server.linger.MaxTotal, d.server.linger.MaxIdle = time.Hour, time.Hour
	return d
}

// sendAll sends text. Unlike flush it returns the errors of the connection.
func (c *client) sendAll(text string) error {
	_ = c.raw.SetWriteDeadline(time.Now().Add(patience))
	_, err := io.WriteString(c.conn(), text)
	return err
}

// mustReceive fails the test if the client does not receive replies of these codes, and
// then the end of the connection without a reset.
func (c *client) mustReceive(t *testing.T, codes ...string) {
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

// makeErrors makes so many errors that the server ends the connection.
func (c *client) makeErrors(t *testing.T) {
	t.Helper()
	c.must(t, "", "220")
	if err := c.sendAll(strings.Repeat(noCommand, 20)); err != nil {
		t.Fatal(err)
	}
	c.mustReceive(t, tooManyErrors...)
}
