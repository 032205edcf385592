package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// patience bounds each wait of a client. It is long because two thousand clients
// may use a slow server at once.
const patience = 2 * time.Minute

// A target is the address of a server and how clients connect to it.
type target struct {
	addr       string
	tls        *tls.Config
	bare       bool // implicit TLS without SMTP
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
		return t.handshake()
	}
	c, err := t.dial()
	if err != nil {
		return err
	}
	return c.quit()
}

// handshake connects, does the TLS handshake, and waits until the server closes the
// connection.
func (t *target) handshake() error {
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

// login connects, starts TLS and authenticates with PLAIN.
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
	if err := c.command("250", "EHLO client.example.org"); err != nil {
		return err
	}
	if err := c.command("220", "STARTTLS"); err != nil {
		return err
	}
	secured := tls.Client(c.conn, t.tls)
	if err := secured.Handshake(); err != nil {
		return err
	}
	t.handshakes.add(secured.ConnectionState())
	c.conn = secured
	c.in.Reset(secured)
	if err := c.command("250", "EHLO client.example.org"); err != nil {
		return err
	}
	token := base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + password))
	return c.command("235", "AUTH PLAIN "+token)
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

// begin sends the commands before the message.
func (c *client) begin() error {
	if err := c.command("250", "MAIL FROM:<alice@example.org>"); err != nil {
		return err
	}
	if err := c.command("250", "RCPT TO:<bob@example.net>"); err != nil {
		return err
	}
	return c.command("354", "DATA")
}

func (c *client) quit() error {
	defer c.conn.Close()
	return c.command("221", "QUIT")
}

func (c *client) command(code, line string) error {
	if _, err := io.WriteString(c.conn, line+"\r\n"); err != nil {
		return err
	}
	if err := c.expect(code); err != nil {
		verb, _, _ := strings.Cut(line, " ")
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

// letter returns a message of about size bytes with the usual header of clients.
func letter(size int) []byte {
	const header = "From: Alice <alice@example.org>\r\nTo: Bob <bob@example.net>\r\nSubject: A letter\r\n" +
		"Date: Mon, 2 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1.2.3@client.example.org>\r\n" +
		"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n"
	const line = "The quick brown fox jumps over the lazy dog, and then it does it again.\r\n"
	return []byte(header + strings.Repeat(line, max(1, (size-len(header))/len(line))))
}

// handshakes counts the TLS handshakes of the clients of a round. It shows whether they
// used -hybrid and -resume, which depends on the server, too. Its methods may be called
// concurrently.
type handshakes struct {
	mu      sync.Mutex
	all     int
	resumed int
	groups  map[tls.CurveID]int // by key exchange
}

func (h *handshakes) add(state tls.ConnectionState) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all++
	if state.DidResume {
		h.resumed++
	}
	if h.groups == nil {
		h.groups = make(map[tls.CurveID]int)
	}
	h.groups[state.CurveID]++
}

// String lists the key exchanges and the share of resumed sessions, such as
// "X25519, 99.8 % of 1,200 resumed".
func (h *handshakes) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.all == 0 {
		return "no handshake"
	}
	var names []string
	for group := range h.groups {
		names = append(names, group.String())
	}
	slices.Sort(names)
	return fmt.Sprintf("%s, %.1f %% of %d resumed", strings.Join(names, " and "), 100*float64(h.resumed)/float64(h.all), h.all)
}
