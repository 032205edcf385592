// Package sign adds DKIM signatures (RFC 6376) to messages on their way to the
// next hop.
//
// [Signer.Before] is a [relay.Decorator] that signs messages; it must come after all
// steps that change them. It uses every key of the domain in the From field, so a message can have an rsa-sha256 and an ed25519-sha256 (RFC 8463)
// signature. A message of a domain without keys passes unchanged.
//
// Header and body are canonicalized as "relaxed", the body is signed to its
// end (no l=), and h= lists every name once more than the message has it, so a
// second From or Subject that is added later breaks the signature. Signing
// reads the staged message once for all keys together.
//
// The package leaves out verifying, ARC, and signing for a parent domain. The
// canonicalization and the cryptography are go-msgauth's. A new kind of key is
// one more case in parseKey and in TXTRecord.
package sign

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/emersion/go-msgauth/dkim"
	"golang.org/x/net/idna"

	"postern/relay"
	"postern/relay/message"
)

// Events receives everything that the log and the metrics need to know of signing. Its
// methods are called by many goroutines at once and must not block. [NewLog] makes one
// that writes the log.
type Events interface {
	WeakKey(domain, selector, reason string)
	NotSigned(session, reason string) // a message that was sent without a signature
}

type eventLog struct{ *slog.Logger }

// NewLog returns Events that are written to l.
func NewLog(l *slog.Logger) Events { return eventLog{l} }

func (l eventLog) WeakKey(domain, selector, reason string) {
	l.Warn("weak DKIM key", "domain", domain, "selector", selector, "reason", reason)
}

func (l eventLog) NotSigned(session, reason string) {
	l.Warn("message not signed", "session", session, "reason", reason)
}

// A Signer holds the keys. It is immutable: a reload makes a new one. It may be used by
// many goroutines at once.
type Signer struct {
	keys   map[string][]*privateKey // by domain
	events Events
}

// New reads the keys, which must have passed Validate.
func New(keys []Key, events Events) (*Signer, error) {
	s := &Signer{keys: map[string][]*privateKey{}, events: events}
	for _, k := range keys {
		private, err := k.load()
		if err != nil {
			return nil, err
		}
		if private.weak != "" {
			events.WeakKey(private.domain, private.selector, private.weak)
		}
		s.keys[private.domain] = append(s.keys[private.domain], private)
	}
	return s, nil
}

// Before is a relay.Decorator: it returns a NextHop that signs messages and sends them
// to next. Without keys it returns next itself.
func (s *Signer) Before(next relay.NextHop) relay.NextHop {
	if len(s.keys) == 0 {
		return next
	}
	return &signingHop{next, s}
}

// A signingHop signs what goes to the NextHop in it.
type signingHop struct {
	relay.NextHop
	signer *Signer
}

// Begin implements relay.NextHop.
func (h *signingHop) Begin(ctx context.Context, e *relay.Envelope) (relay.Transaction, error) {
	t, err := h.NextHop.Begin(ctx, e)
	if err != nil {
		return nil, err
	}
	return &transaction{Transaction: t, signer: h.signer, session: e.Session}, nil
}

type transaction struct {
	relay.Transaction
	signer  *Signer
	session string
}

// Send signs m and hands it on.
func (t *transaction) Send(ctx context.Context, m *message.Message) (relay.Receipt, error) {
	signed, err := t.signer.sign(m)
	var no unsignable
	switch {
	case errors.As(err, &no):
		t.signer.events.NotSigned(t.session, string(no))
		signed = m
	case err != nil:
		return relay.Receipt{}, fmt.Errorf("DKIM: %w", err)
	}
	return t.Transaction.Send(ctx, signed)
}

// unsignable is the reason why a message is sent without a signature. The
// message is sent anyway: receivers treat it as any unsigned message.
type unsignable string

func (u unsignable) Error() string { return "not signed: " + string(u) }

// sign returns the view of m with a signature by each key of its domain on
// top, or m itself if its domain has none.
func (s *Signer) sign(m *message.Message) (*message.Message, error) {
	domain, err := authorDomain(m)
	if err != nil {
		return nil, err
	}
	keys := s.keys[domain]
	if len(keys) == 0 {
		return m, nil
	}
	names, err := signedNames(m)
	if err != nil {
		return nil, err
	}
	fields, err := signatures(m, keys, names)
	if err != nil {
		return nil, err
	}
	return m.Edit(message.Edit{Top: fields}), nil
}

// authorDomain returns the domain of the From field in A-labels. Addresses
// without a domain do not count: the header fix-ups leave such words in a field
// that names an author ("alice, bob@example.org"). A message with several From
// fields or authors of several domains is signed for none of them, since
// receivers may show either.
func authorDomain(m *message.Message) (string, error) {
	if n := m.Count("From"); n != 1 {
		return "", unsignable(fmt.Sprintf("%d From fields", n))
	}
	list, err := m.Mailboxes("From")
	if err != nil {
		return "", unsignable("From: " + err.Error())
	}
	if len(list) == 0 {
		return "", unsignable("no address in From")
	}
	domain := ""
	for _, a := range list {
		next := asciiDomain(a.Domain)
		if next != "" && domain != "" && next != domain {
			return "", unsignable("From has addresses of several domains")
		}
		domain = cmp.Or(domain, next)
	}
	return domain, nil
}

// asciiDomain spells a domain as in DNS and in d=: A-labels in lower case.
func asciiDomain(domain string) string {
	if ascii, err := idna.Lookup.ToASCII(domain); err == nil {
		return ascii
	}
	return strings.ToLower(domain)
}

// signatures reads m once and returns one DKIM-Signature field for each key.
func signatures(m *message.Message, keys []*privateKey, names []string) ([]message.Field, error) {
	to := []io.Writer{&blankGuard{}}
	signers := make([]*dkim.Signer, 0, len(keys))
	for _, k := range keys {
		signer, err := dkim.NewSigner(k.options(names))
		if err != nil {
			return nil, err
		}
		defer signer.Close() // ends its goroutine, whatever happens
		signers = append(signers, signer)
		to = append(to, signer)
	}
	if _, err := io.Copy(io.MultiWriter(to...), m.Reader()); err != nil {
		return nil, err
	}
	fields := make([]message.Field, 0, len(keys))
	for _, signer := range signers {
		if err := signer.Close(); err != nil {
			return nil, err
		}
		field, err := message.ParseField([]byte(signer.Signature()))
		if err != nil {
			return nil, err
		}
		fields = append(fields, field)
	}
	return fields, nil
}

// maxBlank is the longest run of white space, in bytes, in a message that is
// signed.
const maxBlank = 1 << 20

// A blankGuard refuses longer runs of white space. Relaxed canonicalization
// drops empty lines at the end of the body only, so go-msgauth holds every run
// of them in memory until it has read what follows.
type blankGuard struct{ run int }

func (g *blankGuard) Write(p []byte) (int, error) {
	blank := len(p) - len(bytes.TrimRight(p, " \t\r\n"))
	if blank < len(p) {
		g.run = 0
	}
	if g.run += blank; g.run > maxBlank {
		return 0, unsignable("more than a megabyte of white space in one piece")
	}
	return len(p), nil
}
