// Package sign adds DKIM signatures (RFC 6376) to messages before they are sent to the next
// hop.
//
// [Signer.Before] is a [relay.Decorator] that signs messages; it must come after all
// steps that change them. It uses every key of the domain in the From field, so a message can
// have an rsa-sha256 and an ed25519-sha256 (RFC 8463) signature. A message of a domain without
// keys passes unchanged, and so does one of a client that may not have it signed
// (relay.Envelope.MaySign).
//
// Header and body are canonicalized as "relaxed", the body is signed to its
// end (no l=), and h= lists every name once more than the message has it, so a
// second From or Subject that is added later breaks the signature. Signing
// reads the staged message once for all keys together, takes time and memory that are
// linear in its size, and ends with the context.
//
//	sign    the decision, and the signatures
//	header  the signed fields, as go-msgauth gets them
//	key     private keys, and their records in DNS
//
// The package leaves out verifying, ARC, and signing for a parent domain.
// Canonicalization and cryptography are those of go-msgauth. A new kind of key is a case in
// usable, newKey and TXTRecord.
package sign

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"unicode/utf8"

	"github.com/emersion/go-msgauth/dkim"
	"golang.org/x/net/idna"

	"postern/internal/text"
	"postern/relay"
	"postern/relay/message"
)

// Events receives everything that the log and the metrics need to know of signing. Its
// methods are called by many goroutines at once and must not block. [NewLog] makes one
// that writes the log.
type Events interface {
	WeakKey(domain, selector, reason string)
	RepairedKey(domain, selector, reason string) // a mistake in its file that was repaired
	NotSigned(session, reason string)            // a message that was sent without a signature
}

type eventLog struct{ *slog.Logger }

// NewLog returns Events that are written to l.
func NewLog(l *slog.Logger) Events { return eventLog{l} }

func (l eventLog) WeakKey(domain, selector, reason string) {
	l.Warn("weak DKIM key", "domain", domain, "selector", selector, "reason", reason)
}

func (l eventLog) RepairedKey(domain, selector, reason string) {
	l.Warn("mistake in a DKIM key file", "domain", domain, "selector", selector, "reason", reason)
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
		for _, r := range private.repairs {
			events.RepairedKey(private.domain, private.selector, r)
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
	return &transaction{Transaction: t, signer: h.signer, session: e.Session, maySign: e.MaySign}, nil
}

type transaction struct {
	relay.Transaction
	signer  *Signer
	session string
	maySign bool // see relay.Envelope
}

// Send implements relay.Transaction.
func (t *transaction) Send(ctx context.Context, m *message.Message) (relay.Receipt, error) {
	signed, err := t.signer.sign(ctx, m, t.maySign)
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

func (u unsignable) Error() string { return string(u) }

const notAuthorized = unsignable("the client has neither logged in nor is it in mynetworks")

// sign returns m with a signature by each key of its author's domain. The end of ctx ends
// it. A client that may not have a message signed gets none, and only a message that a key
// would sign is worth an event.
func (s *Signer) sign(ctx context.Context, m *message.Message, maySign bool) (*message.Message, error) {
	domain, err := authorDomain(m)
	if err != nil && !maySign {
		return m, nil
	}
	if err != nil {
		return nil, err
	}
	keys := s.keys[domain]
	if len(keys) == 0 {
		return m, nil
	}
	if !maySign {
		return nil, notAuthorized
	}
	h, err := headerOf(m)
	if err != nil {
		return nil, err
	}
	fields, err := signatures(ctx, h, m.Body(), keys)
	if err != nil {
		return nil, err
	}
	return m.Edit(message.Edit{Top: fields}), nil
}

// authorDomain returns the domain of the From field in A-labels. Addresses without a domain
// do not count: the header fix-ups leave them in a field that has another author ("alice,
// bob@example.org"). A message with several From fields or authors of several domains is
// signed for none of them, since receivers may display any of them.
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
	domain, last := "", ""
	for _, a := range list {
		if a.Domain == last {
			continue
		}
		last = a.Domain
		next := asciiDomain(a.Domain)
		if next != "" && domain != "" && next != domain {
			return "", unsignable("From has addresses of several domains")
		}
		domain = cmp.Or(domain, next)
	}
	return domain, nil
}

// maxLabel bounds a label of a domain in DNS, in octets (RFC 1035, section 2.3.4). One with more
// characters has no A-label.
const maxLabel = 63

// asciiDomain returns a domain as in DNS and in d=: A-labels in lower case. What has none, it
// returns in lower case. Labels are bounded, because the time to encode one grows with the
// square of its length.
func asciiDomain(domain string) string {
	if text.IsASCII(domain) {
		return strings.ToLower(domain)
	}
	for label := range strings.SplitSeq(domain, ".") {
		if utf8.RuneCountInString(label) > maxLabel {
			return strings.ToLower(domain)
		}
	}
	if ascii, err := idna.Lookup.ToASCII(domain); err == nil {
		return ascii
	}
	return strings.ToLower(domain)
}

// signatures reads the body once and returns one DKIM-Signature field for each key.
func signatures(ctx context.Context, h *header, body io.Reader, keys []*privateKey) ([]message.Field, error) {
	to := make([]io.Writer, 0, len(keys))
	signers := make([]*dkim.Signer, 0, len(keys))
	for _, k := range keys {
		signer, err := dkim.NewSigner(&dkim.SignOptions{
			Domain:                 k.domain,
			Selector:               k.selector,
			Signer:                 k.signer,
			Hash:                   crypto.SHA256,
			HeaderCanonicalization: dkim.CanonicalizationRelaxed,
			BodyCanonicalization:   dkim.CanonicalizationRelaxed,
			HeaderKeys:             h.names,
		})
		if err != nil {
			return nil, err
		}
		defer signer.Close() // ends its goroutine, whatever happens
		signers = append(signers, signer)
		to = append(to, signer)
	}
	all := io.MultiWriter(to...)
	if err := h.writeTo(all); err != nil {
		return nil, err
	}
	if _, err := io.Copy(&bodyGuard{ctx: ctx, to: all}, body); err != nil {
		return nil, err
	}
	fields := make([]message.Field, 0, len(keys))
	for _, signer := range signers {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
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

// maxBlank is the longest run of white space, in bytes, in the body of a message that is
// signed.
const maxBlank = 1 << 20

// A bodyGuard passes the body on until the context ends or a run of white space is too
// long. Relaxed canonicalization removes empty lines only at the end of the body, so
// go-msgauth keeps each run of them in memory until it has read the next text.
type bodyGuard struct {
	ctx context.Context
	to  io.Writer
	run int // bytes of white space at the end of what has been read
}

func (g *bodyGuard) Write(p []byte) (int, error) {
	if err := context.Cause(g.ctx); err != nil {
		return 0, err
	}
	blank := len(p) - len(bytes.TrimRight(p, " \t\r\n"))
	if blank < len(p) {
		g.run = 0
	}
	if g.run += blank; g.run > maxBlank {
		return 0, unsignable("more than a megabyte of white space in a row")
	}
	return g.to.Write(p)
}
