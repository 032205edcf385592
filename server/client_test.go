package server

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// patience bounds each wait for the server, which is as good as never reached.
const patience = time.Minute

// A client is the one end of a dialogue.
type client struct {
	raw     *net.TCPConn
	tls     *tls.Conn // nil on clear text
	mode    Mode
	in      *bufio.Reader
	pending string   // to be sent
	reply   []string // the last whole reply
	said    []string // all of it, for when something goes wrong
}

func dial(address string, mode Mode) (*client, error) {
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return nil, err
	}
	return newClient(conn.(*net.TCPConn), mode), nil
}

func newClient(raw *net.TCPConn, mode Mode) *client {
	return &client{raw: raw, mode: mode, in: bufio.NewReader(raw)}
}

// conn is where lines go.
func (c *client) conn() net.Conn {
	if c.tls != nil {
		return c.tls
	}
	return c.raw
}

func (c *client) note(who, what string) { c.said = append(c.said, who+" "+what) }

func (c *client) transcript() string { return strings.Join(c.said, "\n") }

func (c *client) raws(arg string) error {
	text, err := strconv.Unquote(arg)
	c.pending += text
	return err
}

func (c *client) repeats(arg string) error {
	count, quoted, _ := strings.Cut(arg, " ")
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	text, err := strconv.Unquote(quoted)
	c.pending += strings.Repeat(text, n)
	return err
}

// flush sends what is pending. A server that has closed may not take it; what
// it said before is what counts.
func (c *client) flush() error {
	if c.pending == "" {
		return nil
	}
	c.note("C", strconv.Quote(c.pending[:min(len(c.pending), 200)]))
	text := c.pending
	c.pending = ""
	_ = c.raw.SetWriteDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c.conn(), text); errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return nil
}

func (c *client) dribble(arg string) error {
	every, quoted, _ := strings.Cut(arg, " ")
	pause, err := time.ParseDuration(every)
	if err != nil {
		return err
	}
	text, err := strconv.Unquote(quoted)
	for i := range len(text) {
		c.pending = text[i : i+1]
		if err := c.flush(); err != nil {
			return err
		}
		time.Sleep(pause)
	}
	return err
}

func (c *client) line() (string, error) {
	_ = c.raw.SetReadDeadline(time.Now().Add(patience))
	line, err := c.in.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("after %q: %w", line, err)
	}
	line, ok := strings.CutSuffix(line, "\r\n")
	if !ok {
		return "", fmt.Errorf("%q does not end with CRLF", line)
	}
	c.note("S", line)
	return line, nil
}

func (c *client) expectLine(want string) error {
	line, err := c.line()
	if err == nil && !glob(want, line) {
		return fmt.Errorf("the server said %q", line)
	}
	return err
}

// expectLines is expectLine so many times.
func (c *client) expectLines(arg string) error {
	count, want, _ := strings.Cut(arg, " ")
	n, err := strconv.Atoi(count)
	for range n {
		if err := c.expectLine(want); err != nil {
			return err
		}
	}
	return err
}

// expectReply reads a whole reply of that code.
func (c *client) expectReply(code string) error {
	c.reply = nil
	for {
		line, err := c.line()
		if err != nil {
			return err
		}
		if !strings.HasPrefix(line, code) || len(line) < 4 {
			return fmt.Errorf("the server said %q", line)
		}
		c.reply = append(c.reply, line[4:])
		if line[3] == ' ' {
			return nil
		}
	}
}

func (c *client) offers(keyword string) bool {
	for _, line := range c.reply[min(len(c.reply), 1):] {
		if line == keyword || strings.HasPrefix(line, keyword+" ") {
			return true
		}
	}
	return false
}

func (c *client) expectKeyword(keyword string) error {
	if !c.offers(keyword) {
		return fmt.Errorf("not in %q", c.reply)
	}
	return nil
}

func (c *client) expectNoKeyword(keyword string) error {
	if c.offers(keyword) {
		return fmt.Errorf("it is in %q", c.reply)
	}
	return nil
}

func (c *client) startTLS() error {
	if n := c.in.Buffered(); n > 0 {
		return fmt.Errorf("%d bytes in clear before the handshake", n)
	}
	c.tls = tls.Client(c.raw, &tls.Config{InsecureSkipVerify: true}) // the certificate is not what is tested
	c.in = bufio.NewReader(c.tls)
	c.note("C", "(handshake)")
	_ = c.raw.SetDeadline(time.Now().Add(patience))
	return c.tls.Handshake()
}

// expectAlert reads a TLS alert record (RFC 8446, section 6) in clear.
func (c *client) expectAlert() error {
	_ = c.raw.SetReadDeadline(time.Now().Add(patience))
	var record [7]byte
	if _, err := io.ReadFull(c.in, record[:]); err != nil {
		return err
	}
	if record[0] != 21 || record[1] != 3 {
		return fmt.Errorf("the server said %q", record)
	}
	return nil
}

func (c *client) login(arg string) error {
	user, password, _ := strings.Cut(arg, " ")
	plain := base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + password))
	if c.mode == TLS {
		if err := c.startTLS(); err != nil {
			return err
		}
		return c.converse("", "220", "EHLO client.example.org", "250", "AUTH PLAIN "+plain, "235")
	}
	if err := c.secure(); err != nil {
		return err
	}
	return c.converse("EHLO client.example.org", "250", "AUTH PLAIN "+plain, "235")
}

// secure goes from the greeting to TLS.
func (c *client) secure() error {
	if err := c.converse("", "220", "EHLO client.example.org", "250", "STARTTLS", "220"); err != nil {
		return err
	}
	return c.startTLS()
}

func (c *client) mail(arg string) error {
	from, to, _ := strings.Cut(arg, " ")
	return c.converse("MAIL FROM:<"+from+">", "250", "RCPT TO:<"+to+">", "250")
}

// converse takes commands and codes in turn.
func (c *client) converse(commands ...string) error {
	for i := 0; i < len(commands); i += 2 {
		if commands[i] != "" {
			c.pending = commands[i] + "\r\n"
		}
		if err := c.flush(); err != nil {
			return err
		}
		if err := c.expectReply(commands[i+1]); err != nil {
			return err
		}
	}
	return nil
}

// closeWrite says that nothing more will come, with a close_notify over TLS.
func (c *client) closeWrite() error {
	if c.tls != nil {
		if err := c.tls.CloseWrite(); err != nil {
			return err
		}
	}
	return c.raw.CloseWrite()
}

func (c *client) reset() error {
	if err := c.raw.SetLinger(0); err != nil {
		return err
	}
	return c.raw.Close()
}

func (c *client) expectEOF() error {
	_ = c.raw.SetReadDeadline(time.Now().Add(patience))
	rest, err := io.ReadAll(c.in)
	switch {
	case len(rest) > 0:
		return fmt.Errorf("the server said %q", rest)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errors.New("the connection is still open")
	}
	return nil // closed or reset
}
