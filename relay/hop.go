package relay

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/emersion/go-smtp"
)

// Why a hop that can be reached is of no use. Check knows what to do.
var (
	errAuth       = errors.New("the hop does not accept our user and password")
	errMechanism  = errors.New("the hop offers no mechanism to authenticate that we know")
	errNoSTARTTLS = errors.New("the hop does not offer STARTTLS")
	errGreeting   = errors.New("the hop does not want to talk to us")
)

// A peer is one SMTP server and what is needed to connect to it.
type peer struct {
	url         HopURL
	helo        string
	tls         *tls.Config
	credentials *credentials // nil: never authenticate
	connect     time.Duration
	command     time.Duration
	data        time.Duration
}

func newPeer(u HopURL, cfg *Config) (*peer, error) {
	p := &peer{url: u, helo: cfg.HeloName, connect: cfg.ConnectTimeout, command: cfg.CommandTimeout, data: cfg.DataTimeout}
	if p.helo == "" {
		p.helo = hostName()
	}
	var err error
	if cfg.Credentials != "" {
		if p.credentials, err = readCredentials(cfg.Credentials); err != nil {
			return nil, err
		}
	}
	p.tls = &tls.Config{
		ServerName:         u.Host,
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: !cfg.Verify && u.IsLocal(),
		ClientSessionCache: tls.NewLRUClientSessionCache(1),
	}
	if cfg.CAFile != "" {
		p.tls.RootCAs, err = readCAs(cfg.CAFile)
	}
	return p, err
}

// hostName falls back on a name that is always true.
func hostName() string {
	name, err := os.Hostname()
	if err != nil || name == "" || !validHelo(name) {
		return "localhost"
	}
	return name
}

func readCAs(name string) (*x509.CertPool, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("relay.ca_file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("relay.ca_file: %s holds no certificate in PEM form", name)
	}
	return pool, nil
}

// open connects and prepares the connection for MAIL.
func (p *peer) open(ctx context.Context) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.connect)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, p.url.Network(), p.url.Address)
	if err != nil {
		return nil, err
	}
	w := newWire(raw)
	b := w.within(ctx, p.connect)
	c, err := p.greet(ctx, w)
	b.end()
	if err != nil {
		raw.Close()
		return nil, err
	}
	return c, nil
}

// greet does all that comes before MAIL on a connection that has been made.
func (p *peer) greet(ctx context.Context, w *wire) (*conn, error) {
	var err error
	switch p.url.Scheme {
	case schemeTLS:
		err = w.upgrade(ctx, p.tls)
	case schemeStartTLS:
		err = p.startTLS(ctx, w)
	}
	if err != nil {
		return nil, err
	}
	client := smtp.NewClient(w)
	if err := client.Hello(p.helo); err != nil {
		return nil, asGreeting(err)
	}
	if err := p.authenticate(client); err != nil {
		return nil, err
	}
	c := &conn{peer: p, wire: w, caps: capsOf(client)}
	c.offers = extensions{eightBit: c.caps.EightBit, utf8: c.caps.SMTPUTF8, dsn: c.caps.DSN}
	c.offers.size, _ = client.Extension("SIZE")
	c.pipelining, _ = client.Extension("PIPELINING")
	return c, nil
}

// asGreeting keeps a refusal of us from being taken for one of a message.
func asGreeting(err error) error {
	var e *smtp.SMTPError
	if errors.As(err, &e) {
		return fmt.Errorf("%w: %s", errGreeting, quote(e))
	}
	return err
}

// startTLS is done on the bare wire: go-smtp's client has STARTTLS only
// together with the EHLO name "localhost", and keeps the TLS connection to
// itself. It expects the greeting, so it gets the one that the hop gave.
func (p *peer) startTLS(ctx context.Context, w *wire) error {
	greeting, err := w.reply()
	if err != nil {
		return err
	}
	if greeting.code != 220 {
		return fmt.Errorf("%w: %s", errGreeting, cleanLine(string(greeting.raw)))
	}
	first := bytes.Clone(greeting.raw)
	hello, err := w.command("EHLO "+p.helo, 250)
	if err != nil {
		return err
	}
	if !offers(hello, "STARTTLS") {
		return errNoSTARTTLS
	}
	// RFC 3207, section 4.2: everything learned before TLS is discarded; the client
	// sends EHLO again.
	if _, err := w.command("STARTTLS", 220); err != nil {
		return err
	}
	if err := w.upgrade(ctx, p.tls); err != nil {
		return err
	}
	w.unread = first
	return nil
}

func offers(hello reply, keyword string) bool {
	for _, line := range hello.lines()[1:] {
		if word, _, _ := strings.Cut(line, " "); strings.EqualFold(word, keyword) {
			return true
		}
	}
	return false
}

// authenticate does so if there are credentials and the hop offers AUTH; a
// Postfix on the same machine, which trusts our address, often does not.
func (p *peer) authenticate(client *smtp.Client) error {
	ok, offered := client.Extension("AUTH")
	if p.credentials == nil || !ok {
		return nil
	}
	mechanism := p.credentials.mechanism(offered)
	if mechanism == nil {
		return fmt.Errorf("%w: %s", errMechanism, cleanLine(offered))
	}
	err := client.Auth(mechanism)
	var e *smtp.SMTPError
	if errors.As(err, &e) {
		return fmt.Errorf("%w: %s", errAuth, quote(e))
	}
	return err
}

func capsOf(client *smtp.Client) Caps {
	caps := Caps{Known: true}
	caps.DSN, _ = client.Extension("DSN")
	caps.EightBit, _ = client.Extension("8BITMIME")
	caps.SMTPUTF8, _ = client.Extension("SMTPUTF8")
	// RFC 6531 3.1: SMTPUTF8 cannot be used without 8BITMIME.
	caps.SMTPUTF8 = caps.SMTPUTF8 && caps.EightBit
	// RFC 1870 4: no number, or 0, means no fixed limit.
	_, size := client.Extension("SIZE")
	if n, err := strconv.ParseInt(strings.TrimSpace(size), 10, 64); err == nil && n > 0 {
		caps.Size = n
	}
	return caps
}
