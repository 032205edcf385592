package test

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"net/textproto"
	"testing"
	"time"

	"postern/test/kit"
)

// A submitter is a mail client in the hands of a test: one command at a time.
// Its errors are those of the network and, from want, a reply that was not
// the expected one, so that it can be used by many goroutines of a test.
type submitter struct {
	conn net.Conn
	text *textproto.Conn
}

// A reply is what the server said; the lines of Text are joined by "\n".
type reply struct {
	Code int
	Text string
}

func (r reply) String() string { return fmt.Sprintf("%d %s", r.Code, r.Text) }

// connect goes as far as the EHLO inside TLS. The connection comes from the
// address from, or from any if that is nil.
func (p *postern) connect(mode tlsMode, from *net.TCPAddr) (*submitter, error) {
	conn, err := dialFrom(from, p.addr(mode))
	if err != nil {
		return nil, err
	}
	if p.opts.Proxied {
		fmt.Fprintf(conn, "PROXY TCP4 192.0.2.7 192.0.2.1 50000 587\r\n")
	}
	return p.greet(conn, mode)
}

func dialFrom(from *net.TCPAddr, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: kit.Patience}
	if from != nil {
		d.LocalAddr = from
	}
	return d.Dial("tcp", addr)
}

// greet is connect for a connection that is there already.
func (p *postern) greet(conn net.Conn, mode tlsMode) (*submitter, error) {
	c := newSubmitter(conn)
	if err := c.hello(mode, p.tlsConfig()); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// login connects and authenticates with PLAIN.
func (p *postern) login(user string, from *net.TCPAddr) (*submitter, error) {
	c, err := p.connect(startTLS, from)
	if err != nil {
		return nil, err
	}
	if err := c.want(235, "AUTH PLAIN "+plain(user, password)); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func plain(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + password))
}

func newSubmitter(conn net.Conn) *submitter {
	return &submitter{conn: conn, text: textproto.NewConn(conn)}
}

func (c *submitter) hello(mode tlsMode, config *tls.Config) error {
	if mode == startTLS {
		if err := c.wantAll("", "EHLO client.example.org", "STARTTLS"); err != nil {
			return err
		}
	}
	*c = *newSubmitter(tls.Client(c.conn, config))
	if mode == startTLS {
		return c.wantAll("EHLO client.example.org")
	}
	return c.wantAll("", "EHLO client.example.org")
}

// wantAll sends one line after the other, "" standing for a mere wait for
// the greeting, and wants no refusal.
func (c *submitter) wantAll(lines ...string) error {
	for _, line := range lines {
		r, err := c.ask(line)
		if err != nil {
			return fmt.Errorf("%.40q: %w", line, err)
		}
		if r.Code >= 400 {
			return fmt.Errorf("%.40q got %v", line, r)
		}
	}
	return nil
}

// want is ask for one that knows the answer.
func (c *submitter) want(code int, line string) error {
	r, err := c.ask(line)
	if err != nil {
		return fmt.Errorf("%.40q: %w", line, err)
	}
	if r.Code != code {
		return fmt.Errorf("%.40q got %v, want %d", line, r, code)
	}
	return nil
}

func (c *submitter) ask(line string) (reply, error) {
	if err := c.conn.SetDeadline(time.Now().Add(kit.Patience)); err != nil {
		return reply{}, err
	}
	if line != "" {
		if err := c.text.PrintfLine("%s", line); err != nil {
			return reply{}, err
		}
	}
	code, text, err := c.text.ReadResponse(0)
	return reply{code, text}, err
}

// submit sends one message in one transaction. The reply is that to the end
// of data, or else the first refusal.
func (c *submitter) submit(data string, from string, to ...string) (reply, error) {
	lines := []string{"MAIL FROM:<" + from + ">"}
	for _, rcpt := range to {
		lines = append(lines, "RCPT TO:<"+rcpt+">")
	}
	for _, line := range append(lines, "DATA") {
		r, err := c.ask(line)
		if err != nil || r.Code >= 400 {
			return r, err
		}
	}
	return c.finish(data)
}

// finish sends what has to follow a 354.
func (c *submitter) finish(data string) (reply, error) {
	w := c.text.DotWriter()
	if _, err := w.Write([]byte(data)); err != nil {
		return reply{}, err
	}
	if err := w.Close(); err != nil {
		return reply{}, err
	}
	return c.ask("")
}

func (c *submitter) close() { c.conn.Close() }

// mustLogin is login for the goroutine of the test itself.
func (p *postern) mustLogin(t *testing.T, user string) *submitter {
	t.Helper()
	c, err := p.login(user, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	return c
}

// letter is a small message that the sink can tell from all others.
func letter(mark string) string {
	return "From: Alice <alice@example.org>\r\nTo: Bob <bob@example.net>\r\nSubject: " + mark +
		"\r\nDate: Sun, 01 Nov 2026 12:00:00 +0000\r\nMessage-ID: <" + mark + "@example.org>\r\n\r\nHello.\r\n"
}
