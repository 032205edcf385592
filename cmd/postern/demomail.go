package main

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

// A mailbox is the next hop of the demo: an SMTP server on a loopback port that
// keeps each message as a file. It takes the place of Postfix, so the demo goes
// the way that real mail goes.
type mailbox struct {
	dir      string
	listen   net.Listener
	protocol smtpd.Config
	ctx      context.Context // until close
	cancel   context.CancelFunc
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
	m := &mailbox{dir: dir, listen: l, protocol: mailboxProtocol()}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	return m, nil
}

// mailboxProtocol has roomy limits: the only client is the demo's relay.
func mailboxProtocol() smtpd.Config {
	patient := smtpd.Timeouts{Command: 5 * time.Minute, Data: 5 * time.Minute}
	return smtpd.Config{
		Hostname: "mailbox.localhost", MaxErrors: 1000, MaxJunk: 1000, MaxOvershoot: 1000, MaxLine: 16 << 10,
		PreAuth: patient, Normal: patient, LoginTime: 24 * time.Hour, ReplyTime: time.Minute, WriteTime: time.Minute,
	}
}

func (m *mailbox) url() string { return "smtp://" + m.listen.Addr().String() }

// serve returns nil after close.
func (m *mailbox) serve() error {
	for {
		c, err := m.listen.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go smtpd.Serve(m.ctx, c, &m.protocol, m)
	}
}

func (m *mailbox) close() {
	m.cancel()
	_ = m.listen.Close()
}

// NewSession implements smtpd.Handler.
func (m *mailbox) NewSession(context.Context, *smtpd.Conn) (smtpd.Session, *smtpd.Reply) {
	return &delivery{dir: m.dir}, nil
}

// A delivery is one connection to the mailbox, and one message after another on
// it: an [smtpd.Session].
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

// Data opens a file whose name does not end in .eml until it is whole, so that a
// program that watches the folder never sees half of a message.
func (d *delivery) Data(context.Context, bool) (smtpd.Body, *smtpd.Reply) {
	name := time.Now().UTC().Format("20060102T150405.000Z") + "-" + rand.Text()[:6]
	b := &incoming{dir: d.dir, name: name}
	var err error
	if b.file, err = os.OpenFile(b.part(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return nil, replyNotKept
	}
	if _, err = b.file.WriteString(d.envelope()); err != nil {
		return nil, b.Abort(err)
	}
	return b, nil
}

// envelope is written before the message, as a final delivery does (RFC 5321,
// section 4.4: Return-Path; Delivered-To is what most servers add).
func (d *delivery) envelope() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Return-Path: <%s>\r\n", d.from)
	for _, to := range d.to {
		fmt.Fprintf(&b, "Delivered-To: %s\r\n", to)
	}
	return b.String()
}

func (d *delivery) Reset(context.Context, smtpd.Cause) { d.from, d.to = "", nil }

func (d *delivery) Refused(smtpd.Refusal) {}

func (d *delivery) Close(error) {}

var replyNotKept = smtpd.NewReply(451, smtp.EnhancedCode{4, 3, 0}, "Cannot keep the message")

// An incoming is a message that is being written: an [smtpd.Body].
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
	return smtpd.NewReply(250, smtp.EnhancedCode{2, 0, 0}, "Ok: kept as "+b.name+".eml")
}

func (b *incoming) Abort(error) *smtpd.Reply {
	_ = b.file.Close() // it may be closed already
	_ = os.Remove(b.part())
	return replyNotKept
}
