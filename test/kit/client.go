package kit

import (
	"encoding/base64"
	"fmt"
	"net"
	"net/textproto"
	"time"
)

// A Client is a mail client that sends one command at a time. It returns errors of the
// network instead of failing the test, so that any goroutine may use it.
type Client struct {
	Conn net.Conn
	Text *textproto.Conn
}

// NewClient makes a client that has read nothing yet, not even the greeting.
func NewClient(conn net.Conn) *Client {
	return &Client{Conn: conn, Text: textproto.NewConn(conn)}
}

// A Reply is a reply of the server. The lines of Text are joined by "\n".
type Reply struct {
	Code int
	Text string
}

func (r Reply) String() string { return fmt.Sprintf("%d %s", r.Code, r.Text) }

// Ask sends a line, or nothing for "", and reads the reply. It waits for longer than
// postern may take.
func (c *Client) Ask(line string) (Reply, error) {
	if err := c.Conn.SetDeadline(time.Now().Add(Patience)); err != nil {
		return Reply{}, err
	}
	if line != "" {
		if err := c.Text.PrintfLine("%s", line); err != nil {
			return Reply{}, err
		}
	}
	code, text, err := c.Text.ReadResponse(0)
	return Reply{code, text}, err
}

// Finish sends a message after the reply 354, and reads the reply. ended reports that
// the final dot was sent, or may have been.
func (c *Client) Finish(text string) (r Reply, ended bool, err error) {
	w := c.Text.DotWriter()
	if _, err := w.Write([]byte(text)); err != nil {
		return Reply{}, false, err
	}
	if err := w.Close(); err != nil {
		return Reply{}, true, err
	}
	r, err = c.Ask("")
	return r, true, err
}

// Close closes the connection without QUIT.
func (c *Client) Close() { c.Conn.Close() }

// Plain returns the one message of the mechanism PLAIN (RFC 4616).
func Plain(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + password))
}
