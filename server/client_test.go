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

	"postern/test/kit"
)

// patience bounds each wait for the server. It is reached only if a test fails.
const patience = time.Minute

// A client is one connection to the server of a test.
type client struct {
	raw     *net.TCPConn
	tls     *tls.Conn // nil in clear text
	mode    Mode
	in      *bufio.Reader
	pending string   // to be sent
	reply   []string // the lines of the last reply that expectReply has read
	log     []string // all that was sent and received, for the messages of failed tests
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

// conn is where commands are written.
func (c *client) conn() net.Conn {
	if c.tls != nil {
		return c.tls
	}
	return c.raw
}

func (c *client) note(side, text string) { c.log = append(c.log, side+" "+text) }

func (c *client) transcript() string { return strings.Join(c.log, "\n") }

// sendRaw adds a quoted text to what is sent next.
func (c *client) sendRaw(arg string) error {
	text, err := strconv.Unquote(arg)
	c.pending += text
	return err
}

// sendRepeated adds a text to what is sent next: a number, a blank, and the text in
// quotes.
func (c *client) sendRepeated(arg string) error {
	count, quoted, _ := strings.Cut(arg, " ")
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	text, err := strconv.Unquote(quoted)
	c.pending += strings.Repeat(text, n)
	return err
}

// flush sends what is pending. An error of the connection is ignored: a server that
// has closed it may have replied before, and those replies are what a test reads.
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

// dribble sends a text octet by octet: the pause between two, a blank, and the text in
// quotes.
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
	if err == nil && !kit.Glob(want, line) {
		return fmt.Errorf("the server sent %q", line)
	}
	return err
}

// expectLines reads a number of lines that match one pattern: the number, a blank,
// and the pattern.
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

// expectReply reads a reply of one line or more with that code.
func (c *client) expectReply(code string) error {
	c.reply = nil
	for {
		line, err := c.line()
		if err != nil {
			return err
		}
		if !strings.HasPrefix(line, code) || len(line) < 4 {
			return fmt.Errorf("the server sent %q", line)
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

// expectAlert reads a TLS alert record (RFC 8446, section 6) that is not encrypted.
func (c *client) expectAlert() error {
	_ = c.raw.SetReadDeadline(time.Now().Add(patience))
	var record [7]byte
	if _, err := io.ReadFull(c.in, record[:]); err != nil {
		return err
	}
	if record[0] != 21 || record[1] != 3 {
		return fmt.Errorf("the server sent %q", record)
	}
	return nil
}

// login goes from the greeting to the 235 of AUTH: a user, a blank, and the password.
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

// secure goes from the greeting to the end of the handshake, with STARTTLS.
func (c *client) secure() error {
	if err := c.converse("", "220", "EHLO client.example.org", "250", "STARTTLS", "220"); err != nil {
		return err
	}
	return c.startTLS()
}

// mail sends MAIL and RCPT: the sender, a blank, and the recipient.
func (c *client) mail(arg string) error {
	from, to, _ := strings.Cut(arg, " ")
	return c.converse("MAIL FROM:<"+from+">", "250", "RCPT TO:<"+to+">", "250")
}

// converse takes pairs of a command and the code of its reply. For an empty command it
// only reads a reply.
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

// closeWrite ends the client's side of the connection, with a close_notify over TLS.
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

// expectEOF waits until the server has closed its side of the connection, and then
// closes the client's, as clients do; the server lingers until then.
func (c *client) expectEOF() error {
	_ = c.raw.SetReadDeadline(time.Now().Add(patience))
	rest, err := io.ReadAll(c.in)
	switch {
	case len(rest) > 0:
		return fmt.Errorf("the server sent %q", rest)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errors.New("the connection is still open")
	}
	_ = c.raw.Close()
	return nil // the server has closed or reset the connection
}
