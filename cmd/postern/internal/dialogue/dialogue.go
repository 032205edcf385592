// Package dialogue is a minimal SMTP client for a server on this machine. It has
// what the commands health and demo need.
package dialogue

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strings"
	"time"
)

// A Dialogue is one connection. It writes the commands and replies to a transcript.
// It is not safe for concurrent use.
type Dialogue struct {
	conn       net.Conn
	text       *textproto.Conn
	transcript io.Writer
}

// Open reads the greeting of the server. Everything on the connection must be done
// before deadline. The caller must call Close, which closes conn; after an error, Open
// has closed it.
func Open(conn net.Conn, deadline time.Time, transcript io.Writer) (*Dialogue, error) {
	d := &Dialogue{conn: conn, text: textproto.NewConn(conn), transcript: transcript}
	err := conn.SetDeadline(deadline)
	if err == nil {
		_, err = d.read(220)
	}
	if err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// Command sends a command line and returns the text of the reply, which must have
// this code.
func (d *Dialogue) Command(code int, line string) (string, error) {
	return d.CommandMasked(code, line, line)
}

// CommandMasked is Command for a line with a secret. The transcript has shown
// instead.
func (d *Dialogue) CommandMasked(code int, line, shown string) (string, error) {
	d.note("C: ", shown)
	if err := d.text.PrintfLine("%s", line); err != nil {
		return "", err
	}
	return d.read(code)
}

// StartTLS changes to TLS and sends EHLO again (RFC 3207, section 4.2).
func (d *Dialogue) StartTLS(config *tls.Config, name string) error {
	if _, err := d.Command(220, "STARTTLS"); err != nil {
		return err
	}
	conn := tls.Client(d.conn, config)
	if err := conn.Handshake(); err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	d.note("-- ", tls.VersionName(conn.ConnectionState().Version))
	d.conn, d.text = conn, textproto.NewConn(conn)
	_, err := d.Command(250, "EHLO "+name)
	return err
}

// Data sends DATA and a message, and returns the text of the final reply.
func (d *Dialogue) Data(message string) (string, error) {
	if _, err := d.Command(354, "DATA"); err != nil {
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
	return d.read(250)
}

// Quit sends QUIT and closes the connection.
func (d *Dialogue) Quit() error {
	_, err := d.Command(221, "QUIT")
	d.Close()
	return err
}

// Close closes the connection. It may be called more than once.
func (d *Dialogue) Close() { _ = d.text.Close() }

func (d *Dialogue) read(code int) (string, error) {
	got, text, err := d.text.ReadResponse(code)
	if got != 0 { // textproto has removed the code from each line (RFC 5321, section 4.2.1)
		lines := strings.Split(text, "\n")
		last := len(lines) - 1
		for _, line := range lines[:last] {
			d.note("S: ", fmt.Sprintf("%d-%s", got, line))
		}
		d.note("S: ", fmt.Sprintf("%d %s", got, lines[last]))
	}
	if err != nil {
		return "", fmt.Errorf("expected %d, got: %w", code, err)
	}
	return text, nil
}

func (d *Dialogue) note(prefix, lines string) {
	for line := range strings.Lines(lines) {
		fmt.Fprintf(d.transcript, "%s%s\n", prefix, strings.TrimRight(line, "\r\n"))
	}
}
