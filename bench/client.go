package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// patience bounds each wait of a client. It is long because two thousand clients
// may use a slow server at once.
const patience = 2 * time.Minute

// A target is where a server listens, and how clients talk to it.
type target struct {
	addr       string
	tls        *tls.Config
	bare       bool // TLS from the first byte, and nothing inside it
	handshakes handshakes
}

// await waits until the server sends its greeting.
func (t *target) await(ctx context.Context, limit time.Duration) error {
	until := time.Now().Add(limit)
	for {
		err := t.probe()
		if err == nil || time.Now().After(until) {
			return err
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// pause waits, or returns the cause of ctx if that ends first.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (t *target) probe() error {
	if t.bare {
		return t.shake()
	}
	c, err := t.dial()
	if err != nil {
		return err
	}
	return c.quit()
}

// shake connects, does a handshake, and waits until the server closes the
// connection.
func (t *target) shake() error {
	c, err := tls.Dial("tcp", t.addr, t.tls)
	if err != nil {
		return err
	}
	defer c.Close()
	t.handshakes.add(c.ConnectionState())
	_, err = io.Copy(io.Discard, c)
	return err
}

// A client is a mail client. It sends one command at a time, as most do.
type client struct {
	conn net.Conn
	in   *bufio.Reader
}

// dial connects and reads the greeting.
func (t *target) dial() (*client, error) {
	conn, err := net.Dial("tcp", t.addr)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	c := &client{conn: conn, in: bufio.NewReader(conn)}
	if err := c.expect("220"); err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

// login connects and does everything up to a successful AUTH PLAIN.
func (t *target) login(user string) (*client, error) {
	c, err := t.dial()
	if err != nil {
		return nil, err
	}
	if err := c.authenticate(t, user); err != nil {
		c.conn.Close()
		return nil, fmt.Errorf("%s: %w", user, err)
	}
	return c, nil
}

func (c *client) authenticate(t *target, user string) error {
	if err := c.say("250", "EHLO client.example.org"); err != nil {
		return err
	}
	if err := c.say("220", "STARTTLS"); err != nil {
		return err
	}
	secured := tls.Client(c.conn, t.tls)
	if err := secured.Handshake(); err != nil {
		return err
	}
	t.handshakes.add(secured.ConnectionState())
	c.conn = secured
	c.in.Reset(secured)
	if err := c.say("250", "EHLO client.example.org"); err != nil {
		return err
	}
	token := base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + password))
	return c.say("235", "AUTH PLAIN "+token)
}

// send submits one message, which must end in CRLF and need no dot-stuffing.
func (c *client) send(message []byte) error {
	_ = c.conn.SetDeadline(time.Now().Add(patience))
	if err := c.begin(); err != nil {
		return err
	}
	if _, err := c.conn.Write(append(message[:len(message):len(message)], ".\r\n"...)); err != nil {
		return err
	}
	return c.expect("250")
}

// begin does everything up to the message.
func (c *client) begin() error {
	if err := c.say("250", "MAIL FROM:<alice@example.org>"); err != nil {
		return err
	}
	if err := c.say("250", "RCPT TO:<bob@example.net>"); err != nil {
		return err
	}
	return c.say("354", "DATA")
}

func (c *client) quit() error {
	defer c.conn.Close()
	return c.say("221", "QUIT")
}

func (c *client) say(code, command string) error {
	if _, err := io.WriteString(c.conn, command+"\r\n"); err != nil {
		return err
	}
	if err := c.expect(code); err != nil {
		verb, _, _ := strings.Cut(command, " ")
		return fmt.Errorf("%s: %w", verb, err)
	}
	return nil
}

func (c *client) expect(code string) error {
	for {
		line, err := c.in.ReadString('\n')
		if err != nil {
			return err
		}
		if !strings.HasPrefix(line, code) {
			return fmt.Errorf("the server replied %q, not %s", line, code)
		}
		if len(line) < 4 || line[3] != '-' {
			return nil
		}
	}
}

// letter is a message of about size bytes with the header that clients write.
func letter(size int) []byte {
	const header = "From: Alice <alice@example.org>\r\nTo: Bob <bob@example.net>\r\nSubject: A letter\r\n" +
		"Date: Mon, 2 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1.2.3@client.example.org>\r\n" +
		"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n"
	const line = "The quick brown fox jumps over the lazy dog, and then it does it again.\r\n"
	return []byte(header + strings.Repeat(line, max(1, (size-len(header))/len(line))))
}
