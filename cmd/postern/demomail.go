package main

import (
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/emersion/go-smtp"
)

// A mailbox is the next hop of the demo: an SMTP server on a loopback port that
// keeps each message as a file. It stands where Postfix would, so the demo
// goes the way that real mail goes.
type mailbox struct {
	dir    string
	server *smtp.Server
	listen net.Listener
}

// openMailbox makes the folder and listens. Serving begins with serve.
func openMailbox(dir string) (*mailbox, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("the demo's mailbox cannot listen: %w", err)
	}
	m := &mailbox{dir: dir, listen: l}
	m.server = smtp.NewServer(m)
	m.server.Domain = "mailbox.localhost"
	m.server.EnableSMTPUTF8 = true
	m.server.EnableDSN = true
	m.server.ReadTimeout = 5 * time.Minute
	m.server.WriteTimeout = time.Minute
	m.server.MaxLineLength = 1 << 20
	return m, nil
}

func (m *mailbox) url() string { return "smtp://" + m.listen.Addr().String() }

// serve returns nil after close.
func (m *mailbox) serve() error {
	if err := m.server.Serve(m.listen); err != smtp.ErrServerClosed {
		return err
	}
	return nil
}

func (m *mailbox) close() {
	_ = m.server.Close()
	_ = m.listen.Close() // in case that it never served
}

// NewSession implements smtp.Backend.
func (m *mailbox) NewSession(*smtp.Conn) (smtp.Session, error) { return &delivery{dir: m.dir}, nil }

// A delivery is one connection to the mailbox, and one message after another
// on it.
type delivery struct {
	dir  string
	from string
	to   []string
}

func (d *delivery) Mail(from string, _ *smtp.MailOptions) error {
	d.from = from
	return nil
}

func (d *delivery) Rcpt(to string, _ *smtp.RcptOptions) error {
	d.to = append(d.to, to)
	return nil
}

// Data writes the message under a name that does not end in .eml until it is
// whole, so whoever watches the folder never sees half of one.
func (d *delivery) Data(r io.Reader) error {
	name := time.Now().UTC().Format("20060102T150405.000Z") + "-" + rand.Text()[:6]
	part := filepath.Join(d.dir, "."+name+".part")
	if err := d.write(part, r); err != nil {
		_ = os.Remove(part)
		return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: "Cannot keep the message"}
	}
	if err := os.Rename(part, filepath.Join(d.dir, name+".eml")); err != nil {
		return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: "Cannot keep the message"}
	}
	return &smtp.SMTPError{Code: 250, EnhancedCode: smtp.EnhancedCode{2, 0, 0}, Message: "Ok: kept as " + name + ".eml"}
}

// write puts the envelope before the message, as a final delivery does (RFC
// 5321, section 4.4: Return-Path; Delivered-To is what most servers add).
func (d *delivery) write(path string, r io.Reader) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
	}()
	if _, err = io.WriteString(f, d.envelope()); err != nil {
		return err
	}
	if _, err = io.Copy(f, r); err != nil {
		return err
	}
	return f.Sync()
}

func (d *delivery) envelope() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Return-Path: <%s>\r\n", d.from)
	for _, to := range d.to {
		fmt.Fprintf(&b, "Delivered-To: %s\r\n", to)
	}
	return b.String()
}

func (d *delivery) Reset() { d.from, d.to = "", nil }

func (d *delivery) Logout() error { return nil }
