package demo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/emersion/go-smtp"

	"postern/server/smtpd"
)

// A Mailbox is an SMTP server on a loopback port that writes each message to a
// file. It is the next hop of the demo in the place of Postfix, so that messages
// take the usual path.
type Mailbox struct {
	dir      string
	listener net.Listener
	protocol smtpd.Config
	ctx      context.Context // until Close
	cancel   context.CancelFunc
}

// OpenMailbox creates the folder, if it does not exist, and listens. The caller
// must call Close.
func OpenMailbox(dir string) (*Mailbox, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("the mailbox of the demo cannot listen: %w", err)
	}
	timeouts := smtpd.Timeouts{Command: 5 * time.Minute, Data: 5 * time.Minute}
	m := &Mailbox{dir: dir, listener: l, protocol: smtpd.Config{ // the only client is postern, so all limits are high
		Hostname: "mailbox.localhost", MaxErrors: 1000, MaxJunk: 1000, MaxOvershoot: 1000, MaxLine: 16 << 10,
		PreAuth: timeouts, Normal: timeouts, LoginTime: 24 * time.Hour, ReplyTime: time.Minute, WriteTime: time.Minute,
	}}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	return m, nil
}

// URL returns the value for relay.next_hops.
func (m *Mailbox) URL() string { return "smtp://" + m.listener.Addr().String() }

// Serve returns nil after Close.
func (m *Mailbox) Serve() error {
	for {
		c, err := m.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go smtpd.Serve(m.ctx, c, &m.protocol, m)
	}
}

// Close ends Serve and closes all connections.
func (m *Mailbox) Close() {
	m.cancel()
	_ = m.listener.Close()
}

// Find returns the newest file with a message that contains text.
func (m *Mailbox) Find(text string) (string, error) {
	files, err := filepath.Glob(filepath.Join(m.dir, "*.eml"))
	if err != nil {
		return "", err
	}
	for i := len(files) - 1; i >= 0; i-- { // names begin with the time
		message, err := os.ReadFile(files[i])
		if err == nil && strings.Contains(string(message), text) {
			return files[i], nil
		}
	}
	return "", fmt.Errorf("the message was accepted, but it is not in %s", m.dir)
}

// NewSession implements smtpd.Handler.
func (m *Mailbox) NewSession(context.Context, *smtpd.Conn) (smtpd.Session, *smtpd.Reply) {
	return &delivery{dir: m.dir}, nil
}

// A delivery is one connection to the mailbox and its current transaction. It
// implements smtpd.Session.
type delivery struct {
	dir  string
	from string
	to   []string
}

func (d *delivery) Offer() smtpd.Offer { return smtpd.Offer{DSN: true, UTF8: true} }

func (d *delivery) Hello(context.Context, string, bool) *smtpd.Reply { return nil }

func (d *delivery) Auth(context.Context, string) (smtpd.Exchange, *smtpd.Reply) {
	return nil, smtpd.NewReply(504, smtp.EnhancedCode{5, 5, 4}, "Unrecognized authentication type")
}

func (d *delivery) Mail(_ context.Context, from smtpd.Path, _ *smtp.MailOptions) *smtpd.Reply {
	d.from = from.String()
	return nil
}

func (d *delivery) Rcpt(_ context.Context, to smtpd.Path, _ *smtp.RcptOptions) *smtpd.Reply {
	d.to = append(d.to, to.String())
	return nil
}

// Data creates a file with a temporary name. It is renamed to .eml when it is
// complete, so that programs that watch the folder read only whole messages.
func (d *delivery) Data(context.Context, bool) (smtpd.Body, *smtpd.Reply) {
	name := time.Now().UTC().Format("20060102T150405.000Z") + "-" + rand.Text()[:6]
	b := &incoming{dir: d.dir, name: name}
	var err error
	if b.file, err = os.OpenFile(b.part(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return nil, writeFailed()
	}
	// A final delivery adds the envelope (RFC 5321, section 4.4: Return-Path). Most
	// servers add Delivered-To, too.
	envelope := fmt.Sprintf("Return-Path: <%s>\r\n", d.from)
	for _, to := range d.to {
		envelope += fmt.Sprintf("Delivered-To: %s\r\n", to)
	}
	if _, err = b.file.WriteString(envelope); err != nil {
		return nil, b.Abort(err)
	}
	return b, nil
}

func (d *delivery) Reset(context.Context, smtpd.Cause) { d.from, d.to = "", nil }

func (d *delivery) Refused(smtpd.Refusal) {}

func (d *delivery) Close(error) {}

func writeFailed() *smtpd.Reply {
	return smtpd.NewReply(451, smtp.EnhancedCode{4, 3, 0}, "Cannot write the message")
}

// An incoming is a message that is being received. It implements smtpd.Body.
type incoming struct {
	dir, name string
	file      *os.File
}

func (b *incoming) part() string { return filepath.Join(b.dir, "."+b.name+".part") }

func (b *incoming) Write(p []byte) (int, error) { return b.file.Write(p) }

func (b *incoming) Commit(context.Context) *smtpd.Reply {
	if err := errors.Join(b.file.Sync(), b.file.Close()); err != nil {
		return b.Abort(err)
	}
	if err := os.Rename(b.part(), filepath.Join(b.dir, b.name+".eml")); err != nil {
		return b.Abort(err)
	}
	return smtpd.NewReply(250, smtp.EnhancedCode{2, 0, 0}, "Ok: written to "+b.name+".eml; this is a demo, nothing is delivered")
}

func (b *incoming) Abort(error) *smtpd.Reply {
	_ = b.file.Close() // Commit may have closed it
	_ = os.Remove(b.part())
	return writeFailed()
}
