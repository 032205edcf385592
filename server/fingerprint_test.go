package server

import (
	"crypto/sha256"
	"net/netip"
	"strings"
	"testing"

	"github.com/emersion/go-smtp"

	"postern/relay"
)

// A printed is what the key of a message depends on.
type printed struct {
	envelope   relay.Envelope
	recipients []smtp.RcptOptions // OriginalRecipient before "|" is the address
	content    string
}

func (p printed) key() messageKey {
	f := &fingerprint{content: sha256.New()}
	for _, r := range p.recipients {
		address, original, _ := strings.Cut(r.OriginalRecipient, "|")
		r.OriginalRecipient = original
		f.addRecipient(address, &r)
	}
	_, _ = f.content.Write([]byte(p.content))
	return f.key(&p.envelope)
}

func TestFingerprint(t *testing.T) {
	rcpt := func(address string, notify ...smtp.DSNNotify) smtp.RcptOptions {
		return smtp.RcptOptions{OriginalRecipient: address + "|", Notify: notify}
	}
	usual := func() printed {
		return printed{
			envelope: relay.Envelope{Session: "s1", Login: "alice", Sender: "alice@example.org", Options: smtp.MailOptions{Size: 100}},
			recipients: []smtp.RcptOptions{
				rcpt("bob@example.net", smtp.DSNNotifyFailure, smtp.DSNNotifySuccess), rcpt("carol@example.net"),
			},
			content: "Subject: x\r\n\r\nHello.\r\n",
		}
	}
	want := usual().key()
	for name, change := range map[string]func(*printed){
		"session":             func(p *printed) { p.envelope.Session = "s2" },
		"address of the user": func(p *printed) { p.envelope.Remote = netip.MustParseAddrPort("192.0.2.1:4000") },
		"order of recipients": func(p *printed) { p.recipients[0], p.recipients[1] = p.recipients[1], p.recipients[0] },
		"order of NOTIFY": func(p *printed) {
			p.recipients[0] = rcpt("bob@example.net", smtp.DSNNotifySuccess, smtp.DSNNotifyFailure)
		},
		"a recipient twice": func(p *printed) { p.recipients = append(p.recipients, rcpt("carol@example.net")) },
	} {
		if p := usual(); true {
			change(&p)
			if p.key() != want {
				t.Errorf("with another %s it is another message", name)
			}
		}
	}
	seen := map[messageKey]string{want: "the usual one"}
	for name, change := range map[string]func(*printed){
		"user":                  func(p *printed) { p.envelope.Login = "bob" },
		"no user":               func(p *printed) { p.envelope.Login = "" },
		"no user, elsewhere":    func(p *printed) { p.envelope.Login, p.envelope.Remote = "", netip.MustParseAddrPort("192.0.2.1:4000") },
		"sender":                func(p *printed) { p.envelope.Sender = "alice@example.com" },
		"null sender":           func(p *printed) { p.envelope.Sender = "" },
		"BODY":                  func(p *printed) { p.envelope.Options.Body = smtp.Body8BitMIME },
		"SIZE":                  func(p *printed) { p.envelope.Options.Size = 101 },
		"SMTPUTF8":              func(p *printed) { p.envelope.Options.UTF8 = true },
		"RET":                   func(p *printed) { p.envelope.Options.Return = smtp.DSNReturnFull },
		"ENVID":                 func(p *printed) { p.envelope.Options.EnvelopeID = "e1" },
		"fewer recipients":      func(p *printed) { p.recipients = p.recipients[:1] },
		"more recipients":       func(p *printed) { p.recipients = append(p.recipients, rcpt("dave@example.net")) },
		"other recipients":      func(p *printed) { p.recipients[1] = rcpt("dave@example.net") },
		"two recipients in one": func(p *printed) { p.recipients[1] = rcpt("carol@example.net,dave@example.net") },
		"NOTIFY":                func(p *printed) { p.recipients[1] = rcpt("carol@example.net", smtp.DSNNotifyNever) },
		"NOTIFY of another": func(p *printed) {
			p.recipients[0], p.recipients[1] = rcpt("bob@example.net"), rcpt("carol@example.net", p.recipients[0].Notify...)
		},
		"ORCPT":                         func(p *printed) { p.recipients[1].OriginalRecipient = "carol@example.net|carol@example.com" },
		"ORCPT of another type":         func(p *printed) { p.recipients[1].OriginalRecipientType = smtp.DSNAddressTypeUTF8 },
		"content":                       func(p *printed) { p.content += "\r\n" },
		"an octet moved between fields": func(p *printed) { p.envelope.Login, p.envelope.Sender = "alicea", "lice@example.org" },
	} {
		p := usual()
		change(&p)
		if other, twice := seen[p.key()]; twice {
			t.Errorf("with another %s it is the same message as %s", name, other)
		}
		seen[p.key()] = "another " + name
	}
}
