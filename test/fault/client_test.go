package fault

import (
	"crypto/tls"
	"fmt"
	"net"
	"strings"

	"postern/test/kit"
)

// A client is a mail client of a test.
type client struct{ *kit.Client }

// connect connects, with TLS, and sends EHLO.
func (s *server) connect() (*client, error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: kit.Patience}, "tcp", s.addr, s.tls())
	if err != nil {
		return nil, err
	}
	c := &client{kit.NewClient(conn)}
	for _, line := range []string{"", "EHLO client.example.org"} {
		if r, err := c.Ask(line); err != nil || r.Code >= 400 {
			c.Close()
			return nil, fmt.Errorf("%q got %v: %w", line, r, err)
		}
	}
	return c, nil
}

// login connects and authenticates with PLAIN.
func (s *server) login(user string) (*client, error) {
	c, err := s.connect()
	if err != nil {
		return nil, err
	}
	if r, err := c.auth(user); err != nil || r.Code != 235 {
		c.Close()
		return nil, fmt.Errorf("AUTH got %v: %w", r, err)
	}
	return c, nil
}

func (c *client) auth(user string) (kit.Reply, error) { return c.authWith(user, kit.Password) }

func (c *client) authWith(user, secret string) (kit.Reply, error) {
	return c.Ask("AUTH PLAIN " + kit.Plain(user, secret))
}

// submit sends one message. It returns the reply to the end of data, or the first
// reply that refuses a command. ended reports that the final dot was sent.
func (c *client) submit(mark, user string, size int) (r kit.Reply, ended bool, err error) {
	for _, line := range []string{"MAIL FROM:<" + user + "@example.org>", "RCPT TO:<carol@example.net>", "DATA"} {
		if r, err = c.Ask(line); err != nil || r.Code >= 400 {
			_, _ = c.Ask("RSET") // for the next message; fails if the connection is closed
			return r, false, err
		}
	}
	return c.Finish(letter(mark, size))
}

// letter returns a message of about size bytes. The mark identifies it.
func letter(mark string, size int) string {
	const line = "All work and no play makes Jack a dull boy, and Jill a dull girl.\r\n"
	return "From: alice@example.org\r\nTo: carol@example.net\r\nSubject: " + mark +
		"\r\nDate: Sun, 01 Nov 2026 12:00:00 +0000\r\nMessage-ID: <" + mark + "@example.org>\r\n\r\n" +
		strings.Repeat(line, 1+size/len(line))
}

// markOf returns the mark of a message that the hop has received.
func markOf(data []byte) string {
	_, rest, _ := strings.Cut(string(data[:min(len(data), 4096)]), "\nMessage-ID: <")
	mark, _, _ := strings.Cut(rest, "@")
	return mark
}
