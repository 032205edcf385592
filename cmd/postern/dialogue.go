package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strings"
	"time"
)

// A dialogue is the client's side of an SMTP conversation with a server that
// is ours: what health and demo need, and nothing more. Every line is shown on
// a transcript as it goes by.
type dialogue struct {
	conn net.Conn
	text *textproto.Conn
	show io.Writer
}

// newDialogue takes over conn, which it will close, and reads the greeting.
// The conversation ends at the deadline, come what may.
func newDialogue(conn net.Conn, deadline time.Time, show io.Writer) (*dialogue, error) {
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	d := &dialogue{show: show}
	d.over(conn)
	_, err := d.hear(220)
	return d, err
}

func (d *dialogue) over(conn net.Conn) {
	d.conn = conn
	d.text = textproto.NewConn(conn)
}

// ask sends a command and demands a reply with this code, or of this class if
// code has one digit.
func (d *dialogue) ask(code int, command string) (string, error) {
	return d.askMasked(code, command, command)
}

// askMasked is ask for a command that must not be shown as it is.
func (d *dialogue) askMasked(code int, command, shown string) (string, error) {
	d.note("C: ", shown)
	if err := d.text.PrintfLine("%s", command); err != nil {
		return "", err
	}
	return d.hear(code)
}

func (d *dialogue) hear(code int) (string, error) {
	got, text, err := d.text.ReadResponse(code)
	if got != 0 {
		d.noteReply(got, text)
	}
	if err != nil {
		return "", fmt.Errorf("expected %d, got: %w", code, err)
	}
	return text, nil
}

// note shows lines as they went over the wire.
func (d *dialogue) note(who, lines string) {
	for line := range strings.Lines(lines) {
		fmt.Fprintf(d.show, "%s%s\n", who, strings.TrimRight(line, "\r\n"))
	}
}

// noteReply shows a reply with its code on every line (RFC 5321, section
// 4.2.1), which textproto has taken off.
func (d *dialogue) noteReply(code int, text string) {
	lines := strings.Split(text, "\n")
	last := len(lines) - 1
	for _, line := range lines[:last] {
		fmt.Fprintf(d.show, "S: %d-%s\n", code, line)
	}
	fmt.Fprintf(d.show, "S: %d %s\n", code, lines[last])
}

// startTLS changes to TLS, where it says EHLO again (RFC 3207, section 4.2).
func (d *dialogue) startTLS(config *tls.Config, helo string) error {
	if _, err := d.ask(220, "STARTTLS"); err != nil {
		return err
	}
	conn := tls.Client(d.conn, config)
	if err := conn.Handshake(); err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	d.note("-- ", tls.VersionName(conn.ConnectionState().Version))
	d.over(conn)
	_, err := d.ask(250, "EHLO "+helo)
	return err
}

// data sends a message behind a DATA that was accepted.
func (d *dialogue) data(message string) (string, error) {
	if _, err := d.ask(354, "DATA"); err != nil {
		return "", err
	}
	w := d.text.DotWriter()
	if _, err := io.WriteString(w, message); err != nil {
		return "", err
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	d.note("C: ", message+".")
	return d.hear(250)
}

// quit says goodbye and hangs up.
func (d *dialogue) quit() error {
	_, err := d.ask(221, "QUIT")
	d.close()
	return err
}

func (d *dialogue) close() { _ = d.text.Close() } // a second close is no news
