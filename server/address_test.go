package server

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/emersion/go-smtp"
)

var addresses = []struct {
	raw  string // as go-smtp hands it on: the local part without its quotes
	utf8 bool
	want string // empty: refused
	code int
}{
	{raw: "alice@example.org", want: "alice@example.org"},
	{raw: "a.b+c!d%e@example.org", want: "a.b+c!d%e@example.org"},
	{raw: "Alice@EXAMPLE.org", want: "Alice@EXAMPLE.org"},
	{raw: "alice@localhost", want: "alice@localhost"},
	{raw: "a@under_score.example", want: "a@under_score.example"},
	{raw: "a@xn--mller-kva.example", want: "a@xn--mller-kva.example"},
	{raw: strings.Repeat("x", 64) + "@example.org", want: strings.Repeat("x", 64) + "@example.org"},
	{raw: "a@" + strings.Repeat("x", 63) + ".org", want: "a@" + strings.Repeat("x", 63) + ".org"},

	{raw: "alice smith@example.org", want: `"alice smith"@example.org`},
	{raw: `a"b\c@example.org`, want: `"a\"b\\c"@example.org`},
	{raw: "a@b@example.org", want: `"a@b"@example.org`},
	{raw: ".a@example.org", want: `".a"@example.org`},
	{raw: "a..b@example.org", want: `"a..b"@example.org`},
	{raw: "a.@example.org", want: `"a."@example.org`},
	{raw: "<>@example.org", want: `"<>"@example.org`},

	{raw: "a@[192.0.2.1]", want: "a@[192.0.2.1]"},
	{raw: "a@[IPv6:2001:db8::1]", want: "a@[IPv6:2001:db8::1]"},
	{raw: "a@[ipv6:::1]", want: "a@[ipv6:::1]"},
	{raw: "a@[2001:db8::1]", code: 501},
	{raw: "a@[IPv6:192.0.2.1]", code: 501},
	{raw: "a@[IPv6:fe80::1%eth0]", code: 501},
	{raw: "a@[192.0.2.256]", code: 501},
	{raw: "a@[192.0.2.1", code: 501},
	{raw: "a@[]", code: 501},
	{raw: "a@[X:1]", code: 501},

	{raw: "müller@example.org", utf8: true, want: "müller@example.org"},
	{raw: "mül ler@müller.example", utf8: true, want: `"mül ler"@müller.example`},
	{raw: "müller@example.org", code: 553},
	{raw: "a@müller.example", code: 553},
	{raw: "m\xfcller@example.org", code: 501},
	{raw: "m\xfcller@example.org", utf8: true, code: 501},
	{raw: "a\u0085b@example.org", utf8: true, code: 501},

	{raw: "", code: 501},
	{raw: "alice", code: 501},
	{raw: "@example.org", code: 501},
	{raw: "alice@", code: 501},
	{raw: "a\x00b@example.org", code: 501},
	{raw: "a\tb@example.org", code: 501},
	{raw: "a\r\nb@example.org", code: 501},
	{raw: "a\x7fb@example.org", code: 501},
	{raw: "a@exa\rmple.org", code: 501},
	{raw: "a@exa mple.org", code: 501},
	{raw: "a@example.org>", code: 501},
	{raw: "a@example..org", code: 501},
	{raw: "a@.example.org", code: 501},
	{raw: "a@example.org.", code: 501},
	{raw: "a@-example.org", code: 501},
	{raw: "a@example-.org", code: 501},
	{raw: strings.Repeat("x", 65) + "@example.org", code: 501},
	{raw: "a@" + strings.Repeat("x", 64) + ".org", code: 501},
	{raw: "a@" + strings.Repeat("x.", 130) + "org", code: 501},
}

func TestWireAddress(t *testing.T) {
	for _, test := range addresses {
		got, refusal := wireAddress(test.raw, test.utf8, replyBadSender)
		code := 0
		if refusal != nil {
			code = refusal.Code
		}
		if got != test.want || code != test.code {
			t.Errorf("wireAddress(%q, %v) = %q, %v", test.raw, test.utf8, got, refusal)
		}
	}
}

// TestWireAddressReply: a sender and a recipient are refused each in its own
// words.
func TestWireAddressReply(t *testing.T) {
	for _, bad := range []*smtp.SMTPError{replyBadSender, replyBadRecipient} {
		if _, refusal := wireAddress("a b", false, bad); refusal != bad {
			t.Errorf("refused with %v instead of %v", refusal, bad)
		}
	}
}

// FuzzWireAddress looks for an address that would break a command line, or mean
// another mailbox at the hop.
func FuzzWireAddress(f *testing.F) {
	for _, test := range addresses {
		f.Add(test.raw, test.utf8)
	}
	f.Fuzz(func(t *testing.T, raw string, smtputf8 bool) {
		wire, refusal := wireAddress(raw, smtputf8, replyBadRecipient)
		if refusal != nil {
			if wire != "" {
				t.Errorf("%q is refused and yet %q", raw, wire)
			}
			return
		}
		if strings.ContainsFunc(wire, isControl) || !utf8.ValidString(wire) || !smtputf8 && !isASCII(wire) {
			t.Errorf("%q becomes %q", raw, wire)
		}
		if back := readMailbox(wire); back != raw {
			t.Errorf("%q becomes %q, which is %q", raw, wire, back)
		}
	})
}

// readMailbox undoes the quoting as a hop does: what is left of an unquoted
// blank, bracket or second "@" would not be part of the address any more.
func readMailbox(wire string) string {
	var local strings.Builder
	quoted := false
	for i := 0; i < len(wire); i++ {
		switch c := wire[i]; {
		case quoted && c == '\\' && i+1 < len(wire):
			i++
			local.WriteByte(wire[i])
		case c == '"':
			quoted = !quoted
		case !quoted && c == '@':
			if strings.ContainsAny(wire[i+1:], "@<> \"") {
				return ""
			}
			return local.String() + wire[i:]
		case !quoted && strings.IndexByte("<> ,;:()[]\\", c) >= 0:
			return ""
		default:
			local.WriteByte(c)
		}
	}
	return ""
}
