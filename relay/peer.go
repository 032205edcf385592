package relay

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"postern/internal/fileperm"
	"postern/internal/pemfile"
)

// Why a hop that can be reached cannot be used. Probe adds what to do about it.
var (
	errClosing    = errors.New("the hop is closing the connection")
	errRequired   = errors.New("the hop requires authentication or TLS from postern")
	errAuth       = errors.New("the hop rejects the user or the password")
	errMechanism  = errors.New("the hop offers no supported AUTH mechanism")
	errNoSTARTTLS = errors.New("the hop does not offer STARTTLS")
)

// A greetingError is a refusal instead of the greeting, or of EHLO.
type greetingError struct {
	reply string
	own   netip.Addr // of this machine, as the hop sees it; invalid for a socket
}

func (e *greetingError) Error() string { return "the hop refuses the connection: " + e.reply }

// A peer is one SMTP server and what is needed to connect to it.
type peer struct {
	url         HopURL
	cfg         *Config
	helo        string
	tls         *tls.Config
	credentials *credentials // nil: no AUTH
}

func newPeer(u HopURL, cfg *Config) (*peer, error) {
	p := &peer{url: u, cfg: cfg, helo: cfg.HeloName}
	if p.helo == "" {
		var err error
		if p.helo, err = os.Hostname(); err != nil || p.helo == "" || !validHelo(p.helo) {
			p.helo = "localhost"
		}
	}
	var err error
	if cfg.Credentials != "" {
		if p.credentials, err = readCredentials(cfg.Credentials); err != nil {
			return nil, fmt.Errorf("relay.credentials: %w", err)
		}
	}
	p.tls = &tls.Config{
		ServerName:         u.Host,
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: !cfg.Verify && u.IsLocal(),
		ClientSessionCache: tls.NewLRUClientSessionCache(1),
	}
	if cfg.CAFile != "" {
		// The warnings are for "postern check".
		if p.tls.RootCAs, _, err = pemfile.ReadAuthorities(cfg.CAFile); err != nil {
			return nil, fmt.Errorf("relay.ca_file: %w", err)
		}
	}
	return p, nil
}

// open connects and prepares the connection for MAIL.
func (p *peer) open(ctx context.Context) (*conn, error) {
	return p.openAt(ctx, p.url.Address, p.cfg.ConnectTimeout)
}

// openAt is open for one of the addresses of the hop's name. dial bounds the time until it
// accepts the connection.
func (p *peer) openAt(ctx context.Context, address string, dial time.Duration) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.ConnectTimeout)
	defer cancel()
	raw, err := (&net.Dialer{Timeout: dial}).DialContext(ctx, p.url.Network(), address)
	if err != nil {
		return nil, err
	}
	r := newReplyReader(raw)
	bound := r.within(ctx, p.cfg.ConnectTimeout)
	c, err := p.greet(ctx, r)
	bound.end()
	if err != nil {
		if tcp, ok := raw.LocalAddr().(*net.TCPAddr); ok {
			if refused, ok := errors.AsType[*greetingError](err); ok {
				refused.own = tcp.AddrPort().Addr().Unmap()
			}
		}
		raw.Close()
		return nil, err
	}
	return c, nil
}

// greet does everything between connecting and the first MAIL: TLS, EHLO, AUTH. A
// refusal of this server must not be taken for a refusal of a message, so it is
// no *smtp.SMTPError.
func (p *peer) greet(ctx context.Context, r *replyReader) (*conn, error) {
	var err error
	switch p.url.Scheme {
	case schemeTLS:
		err = r.upgrade(ctx, p.tls)
	case schemeStartTLS:
		err = p.startTLS(ctx, r)
	}
	if err != nil {
		return nil, err
	}
	client := smtp.NewClient(r)
	err = client.Hello(p.helo)
	if e, ok := errors.AsType[*smtp.SMTPError](err); ok {
		return nil, &greetingError{reply: quote(e)}
	}
	if err != nil {
		return nil, err
	}
	if err := p.authenticate(client); err != nil {
		return nil, err
	}
	c := &conn{peer: p, replyReader: r, caps: Caps{Known: true}}
	c.pipelining, _ = client.Extension("PIPELINING")
	c.caps.DSN, _ = client.Extension("DSN")
	c.caps.EightBit, _ = client.Extension("8BITMIME")
	// RFC 6531, section 3.1: SMTPUTF8 cannot be used without 8BITMIME.
	utf8, _ := client.Extension("SMTPUTF8")
	c.caps.SMTPUTF8 = utf8 && c.caps.EightBit
	// RFC 1870, section 4: no number, or 0, means no fixed limit.
	sized, limit := client.Extension("SIZE")
	if n, err := strconv.ParseInt(strings.TrimSpace(limit), 10, 64); err == nil && n > 0 {
		c.caps.Size = n
	}
	c.offers = extensions{size: sized, eightBit: c.caps.EightBit, utf8: c.caps.SMTPUTF8, dsn: c.caps.DSN}
	return c, nil
}

// startTLS is done without go-smtp's client, which has STARTTLS only together with the
// EHLO name "localhost" and does not return the TLS connection. The client expects the
// greeting, so it gets the hop's once more.
func (p *peer) startTLS(ctx context.Context, r *replyReader) error {
	greeting, err := r.reply()
	if err != nil {
		return err
	}
	if greeting.code != 220 {
		return &greetingError{reply: cleanLine(string(greeting.raw))}
	}
	first := bytes.Clone(greeting.raw)
	hello, err := r.command("EHLO "+p.helo, 250)
	if err != nil {
		return err
	}
	offered := false
	for _, line := range hello.lines()[1:] {
		word, _, _ := strings.Cut(line, " ")
		offered = offered || strings.EqualFold(word, "STARTTLS")
	}
	if !offered {
		return errNoSTARTTLS
	}
	// RFC 3207, section 4.2: everything learned before TLS is discarded; the client
	// sends EHLO again.
	if _, err := r.command("STARTTLS", 220); err != nil {
		return err
	}
	if err := r.upgrade(ctx, p.tls); err != nil {
		return err
	}
	r.unread = first
	return nil
}

// authenticate sends AUTH if there are credentials and the hop offers it. A Postfix on
// the same machine often does not, since it trusts the address.
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
	if e, ok := errors.AsType[*smtp.SMTPError](err); ok {
		return fmt.Errorf("%w: %s", errAuth, quote(e))
	}
	return err
}

// credentials are the login at a hop that offers AUTH. They cannot be printed or logged
// by accident.
type credentials struct{ user, password string }

func (credentials) String() string   { return "(hidden)" }
func (credentials) GoString() string { return "(hidden)" }

// maxCredentials is the largest file that is read, in bytes.
const maxCredentials = 4 << 10

// readCredentials reads the file. Its errors never contain what is in the file.
func readCredentials(name string) (*credentials, error) {
	content, err := fileperm.ReadSecret(name, maxCredentials)
	if err != nil {
		return nil, err
	}
	c, err := parseCredentials(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

func parseCredentials(content []byte) (*credentials, error) {
	lines := strings.Split(strings.TrimRight(string(content), "\r\n"), "\n")
	user, password, ok := strings.Cut(strings.TrimSuffix(lines[0], "\r"), ":")
	if len(lines) == 2 {
		user, password, ok = strings.TrimSuffix(lines[0], "\r"), lines[1], true
	}
	// NUL separates the fields of PLAIN.
	if len(lines) > 2 || !ok || user == "" || password == "" || strings.ContainsRune(user+password, 0) {
		return nil, errors.New(`write "user:password" on one line, or the user on the first line and the password on the second`)
	}
	return &credentials{user, password}, nil
}

// mechanism returns the mechanism to use of those that the hop offers, or nil.
func (c *credentials) mechanism(offered string) sasl.Client {
	has := map[string]bool{}
	for name := range strings.FieldsSeq(strings.ToUpper(offered)) {
		has[name] = true
	}
	switch {
	case has[sasl.Plain]:
		return sasl.NewPlainClient("", c.user, c.password)
	case has[sasl.Login]:
		return sasl.NewLoginClient(c.user, c.password)
	}
	return nil
}
