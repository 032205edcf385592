package test

import (
	"crypto/tls"
	"fmt"
	"net"
	"testing"

	"postern/test/kit"
)

// A submitter is a client of postern that knows what it wants to hear: an error
// is, besides those of the network, a reply that was not the expected one.
type submitter struct{ *kit.Client }

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

// wantAll sends one line after the other, "" standing for a mere wait for
// the greeting, and wants no refusal.
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

// want is ask for one that knows the answer.
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

// submit sends one message in one transaction. The reply is that to the end
// of data, or else the first refusal.
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

// finish sends what has to follow a 354.
func (c *submitter) finish(data string) (kit.Reply, error) {
	r, _, err := c.Finish(data)
	return r, err
}

// mustLogin is login for the goroutine of the test itself.
func (p *postern) mustLogin(t *testing.T, user string) *submitter {
	t.Helper()
	c, err := p.login(user, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// letter is a small message that the sink can tell from all others.
func letter(mark string) string {
	return "From: Alice <alice@example.org>\r\nTo: Bob <bob@example.net>\r\nSubject: " + mark +
		"\r\nDate: Sun, 01 Nov 2026 12:00:00 +0000\r\nMessage-ID: <" + mark + "@example.org>\r\n\r\nHello.\r\n"
}
