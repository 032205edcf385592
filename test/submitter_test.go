package test

import (
	"crypto/tls"
	"fmt"
	"net"
	"testing"

	"postern/test/kit"
)

// A submitter is a client that returns an unexpected reply as an error, like errors of the
// network.
type submitter struct{ *kit.Client }

// connect connects, starts TLS and sends EHLO. from is the address of the client; nil is
// any.
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

// greet is connect for an open connection.
func (p *postern) greet(conn net.Conn, mode tlsMode) (*submitter, error) {
	c := newSubmitter(conn)
	if err := c.hello(mode, p.tlsConfig()); err != nil {
		c.Close()
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
	if err := c.want(235, "AUTH PLAIN "+kit.Plain(user, password)); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func newSubmitter(conn net.Conn) *submitter { return &submitter{kit.NewClient(conn)} }

func (c *submitter) hello(mode tlsMode, config *tls.Config) error {
	if mode == startTLS {
		if err := c.wantAll("", "EHLO client.example.org", "STARTTLS"); err != nil {
			return err
		}
	}
	c.Client = kit.NewClient(tls.Client(c.Conn, config))
	if mode == startTLS {
		return c.wantAll("EHLO client.example.org")
	}
	return c.wantAll("", "EHLO client.example.org")
}

// wantAll sends one line after the other. None may be refused. "" only waits for the
// greeting.
func (c *submitter) wantAll(lines ...string) error {
	for _, line := range lines {
		r, err := c.Ask(line)
		if err != nil {
			return fmt.Errorf("%.40q: %w", line, err)
		}
		if r.Code >= 400 {
			return fmt.Errorf("%.40q got %v", line, r)
		}
	}
	return nil
}

// want sends a line that must get this code.
func (c *submitter) want(code int, line string) error {
	r, err := c.Ask(line)
	if err != nil {
		return fmt.Errorf("%.40q: %w", line, err)
	}
	if r.Code != code {
		return fmt.Errorf("%.40q got %v, want %d", line, r, code)
	}
	return nil
}

// submit sends one message in one transaction. It returns the reply to the end of data, or
// the first reply that refuses a command.
func (c *submitter) submit(data string, from string, to ...string) (kit.Reply, error) {
	lines := []string{"MAIL FROM:<" + from + ">"}
	for _, rcpt := range to {
		lines = append(lines, "RCPT TO:<"+rcpt+">")
	}
	for _, line := range append(lines, "DATA") {
		r, err := c.Ask(line)
		if err != nil || r.Code >= 400 {
			return r, err
		}
	}
	return c.finish(data)
}

// finish sends a message after the reply 354.
func (c *submitter) finish(data string) (kit.Reply, error) {
	r, _, err := c.Finish(data)
	return r, err
}

// mustLogin is login for the goroutine of the test.
func (p *postern) mustLogin(t *testing.T, user string) *submitter {
	t.Helper()
	c, err := p.login(user, nil)
	kit.Must(t, err)
	t.Cleanup(c.Close)
	return c
}

// letter returns a small message. The mark identifies it.
func letter(mark string) string {
	return "From: Alice <alice@example.org>\r\nTo: Bob <bob@example.net>\r\nSubject: " + mark +
		"\r\nDate: Sun, 01 Nov 2026 12:00:00 +0000\r\nMessage-ID: <" + mark + "@example.org>\r\n\r\nHello.\r\n"
}
