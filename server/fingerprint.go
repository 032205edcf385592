package server

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"slices"

	"github.com/emersion/go-smtp"

	"postern/relay"
)

// A messageKey identifies one message of one user: SHA-256 of everything that must be
// the same.
type messageKey [sha256.Size]byte

// A fingerprint collects what makes two messages the same, besides the envelope.
type fingerprint struct {
	recipients []string
	content    hash.Hash // of the bytes as they came, before anything is added
}

// addRecipient takes a recipient that was accepted, with its parameters.
func (f *fingerprint) addRecipient(address string, opts *smtp.RcptOptions) {
	var notify []string
	for _, n := range opts.Notify {
		notify = append(notify, string(n))
	}
	slices.Sort(notify) // RFC 3461, section 4.1: a list in any order
	fields := append([]string{address, string(opts.OriginalRecipientType), opts.OriginalRecipient}, notify...)
	f.recipients = append(f.recipients, string(appendFields(nil, fields...)))
}

// key is the key of the message as it is now: the same user, sender, set of recipients
// in whatever order, and octets. A client that has not logged in is identified by its
// address.
func (f *fingerprint) key(e *relay.Envelope) messageKey {
	user := "login " + e.Login
	if e.Login == "" {
		user = "address " + e.Remote.Addr().String()
	}
	o := &e.Options
	utf8 := "ascii"
	if o.UTF8 {
		utf8 = "utf8"
	}
	all := appendFields(nil, user, e.Sender, string(o.Body), utf8, string(o.Return), o.EnvelopeID, string(f.content.Sum(nil)))
	all = binary.AppendVarint(all, o.Size)
	recipients := slices.Clone(f.recipients)
	slices.Sort(recipients)
	all = appendFields(all, slices.Compact(recipients)...)
	return sha256.Sum256(all)
}

// appendFields writes fields so that no two lists look the same: their number, then
// the length of each before it.
func appendFields(b []byte, fields ...string) []byte {
	b = binary.AppendUvarint(b, uint64(len(fields)))
	for _, f := range fields {
		b = binary.AppendUvarint(b, uint64(len(f)))
		b = append(b, f...)
	}
	return b
}
