package dsn

import (
	"strings"
	"testing"
	"unicode/utf8"

	"postern/internal/text"
)

func TestOriginalRecipient(t *testing.T) {
	for _, tt := range []struct{ addrType, address, want string }{
		{"rfc822", "bob@example.org", "bob@example.org"},
		{"RFC822", "bob@example.org", "bob@example.org"},
		{"rfc822", "b+C3+B6b@example.org", "böb@example.org"}, // as Postfix sends it
		{"rfc822", "b+c3+b6b@example.org", "böb@example.org"},
		{"rfc822", "b+ffb@example.org", "b\xffb@example.org"},
		{"rfc822", "bob+2Btag@example.org", "bob+tag@example.org"},
		{"rfc822", "a=b@example.org", "a=b@example.org"},
		{"rfc822", "+22a+20b+22@example.org", `"a b"@example.org`},
		{"rfc822", `\x{F6}`, `\x{F6}`},
		{"x400", "/C=fr/ADMD=+20/", "/C=fr/ADMD= /"},
		{"X-local", "bob", "bob"},
		{"a+b=c", "bob", "bob"},
		{"utf-8", "bob@example.org", "bob@example.org"},
		{"UTF-8", `b\x{F6}b@example.org`, "böb@example.org"},
		{"utf-8", `b\x{f6}b@example.org`, "böb@example.org"},
		{"utf-8", `\x{20}\x{2B}\x{3d}\x{5C}\x{A0}\x{100}\x{D7FF}\x{FFFD}\x{10000}\x{10FFFF}`, " +=\\\u00a0\u0100\ud7ff\ufffd\U00010000\U0010ffff"},
		{"utf-8", "a=b@example.org", "a=b@example.org"},
	} {
		if !ValidOriginalRecipient(tt.addrType, tt.address, false) {
			t.Errorf("%s;%s is not valid", tt.addrType, tt.address)
		}
		if got, ok := DecodeOriginalRecipient(tt.addrType, tt.address); !ok || got != tt.want {
			t.Errorf("%s;%s: %q, %v", tt.addrType, tt.address, got, ok)
		}
	}
	for addrType, address := range map[string]string{
		"rfc822": strings.Repeat("x", MaxOriginalRecipient-len("rfc822;")),
		"utf-8":  strings.Repeat("x", MaxOriginalRecipient-len("utf-8;")),
	} {
		if !ValidOriginalRecipient(addrType, address, false) || ValidOriginalRecipient(addrType, address+"x", true) {
			t.Errorf("%s: the limit is not %d", addrType, MaxOriginalRecipient)
		}
	}
}

func TestInvalidOriginalRecipient(t *testing.T) {
	for _, tt := range []struct{ addrType, address string }{
		{"", "bob"}, {"rfc822", ""}, {"", ""},
		{"rfc 822", "bob"}, {"rfc.822", "bob"}, {"rfc822;", "bob"}, {"<rfc822>", "bob"}, {"rfc822\r\n", "bob"}, {"r\u00f6c", "bob"},
		{"rfc822", "b\u00f6b@example.org"}, {"rfc822", "b\xff"}, {"x400", "b\u00f6b"},
		{"rfc822", "bob+tag@example.org"}, {"rfc822", "bob+"}, {"rfc822", "b b"}, {"rfc822", "b\r\nb"},
		{"rfc822", "b+0D+0AAction:+20delivered"}, {"rfc822", "b+0ab"}, {"rfc822", "b+00"}, {"rfc822", "b+7f"}, {"rfc822", "b+09b"},
		{"x400", "b+0Ab"},
		{"utf-8", "b\xffb"}, {"utf-8", "b\xc3"}, {"utf-8", "\xed\xa0\x80"}, {"utf-8", "b\u0085b"},
		{"utf-8", "b b"}, {"utf-8", "bob+2Btag"}, {"utf-8", "b\r\nb"}, {"utf-8", "b\x00"}, {"utf-8", "b\x7f"},
		{"utf-8", `b\b`}, {"utf-8", `b\\b`}, {"utf-8", `\x`}, {"utf-8", `\x{`}, {"utf-8", `\x{}`}, {"utf-8", `\x{F}`}, {"utf-8", `\x{F6`},
		{"utf-8", `\X{F6}`}, {"utf-8", `\x{G6}`}, {"utf-8", `\x{00F6}`}, {"utf-8", `\x{0F6}`}, {"utf-8", `\x{1000000}`},
		{"utf-8", `\x{0D}\x{0A}`}, {"utf-8", `\x{09}`}, {"utf-8", `\x{7F}`}, {"utf-8", `\x{85}`}, {"utf-8", `\x{41}`},
		{"utf-8", `\x{D800}`}, {"utf-8", `\x{DFFF}`}, {"utf-8", `\x{110000}`},
	} {
		for _, allowUTF8 := range []bool{false, true} {
			if ValidOriginalRecipient(tt.addrType, tt.address, allowUTF8) {
				t.Errorf("%q;%q is valid", tt.addrType, tt.address)
			}
		}
	}
}

// UTF-8 as it is needs SMTPUTF8; its ASCII form does not.
func TestUTF8OriginalRecipient(t *testing.T) {
	const raw, encoded = "böb\U0001f600@bücher.example", `b\x{F6}b\x{1F600}@b\x{FC}cher.example`
	if ValidOriginalRecipient("utf-8", raw, false) || !ValidOriginalRecipient("utf-8", raw, true) {
		t.Error("UTF-8 is valid with SMTPUTF8 only")
	}
	if got := EncodeUTF8(raw); got != encoded || !ValidOriginalRecipient("utf-8", got, false) {
		t.Errorf("%q", got)
	}
	for _, text := range []string{raw, encoded} {
		if got, ok := DecodeOriginalRecipient("utf-8", text); !ok || got != raw {
			t.Errorf("%q, %v", got, ok)
		}
	}
	if got := EncodeUTF8(`a+b=c\d e`); got != `a\x{2B}b\x{3D}c\x{5C}d\x{20}e` {
		t.Errorf("%q", got)
	}
}

func TestASCIIOriginalRecipient(t *testing.T) {
	for _, tt := range []struct{ addrType, address, want string }{
		{"utf-8", "b\u00f6b", `b\x{F6}b`},
		{"utf-8", `b\x{f6}b`, `b\x{f6}b`},
		{"utf-8", "b\u00f6" + `\x{5C}b`, `b\x{F6}\x{5C}b`},
		{"rfc822", "b+c3+b6b", "b+c3+b6b"},
		{"utf-8", strings.Repeat("\u00f6", 82), strings.Repeat(`\x{F6}`, 82)}, // 498 octets
		{"utf-8", strings.Repeat("\u00f6", 83), ""},
	} {
		got, ok := ASCIIOriginalRecipient(tt.addrType, tt.address)
		if ok != (tt.want != "") || got != tt.want {
			t.Errorf("%s;%s: %q, %v", tt.addrType, tt.address, got, ok)
		}
	}
}

// What is valid cannot end a line or begin another parameter, encoded or
// decoded, and a UTF-8 address has an ASCII form that means the same.
func FuzzOriginalRecipient(f *testing.F) {
	for _, s := range []string{"bob@example.org", "b+C3+B6b", `b\x{F6}b`, "b\u00f6b", "+0D+0A", `\x{0A}`, `\x{`, "\xff"} {
		f.Add("rfc822", s)
		f.Add("utf-8", s)
	}
	f.Add("a b", "c")
	unsafe := func(r rune) bool { return r <= ' ' || r == 0x7f }
	f.Fuzz(func(t *testing.T, addrType, address string) {
		if !ValidOriginalRecipient(addrType, address, true) {
			if ValidOriginalRecipient(addrType, address, false) {
				t.Errorf("%q;%q is valid without SMTPUTF8 only", addrType, address)
			}
			return
		}
		if strings.ContainsFunc(addrType+address, unsafe) || strings.Contains(addrType, ";") || len(addrType)+len(address) >= MaxOriginalRecipient {
			t.Errorf("%q;%q is valid", addrType, address)
		}
		decoded, ok := DecodeOriginalRecipient(addrType, address)
		if !ok || strings.ContainsAny(decoded, "\r\n\x00\x7f\t") {
			t.Errorf("%q;%q decodes to %q, %v", addrType, address, decoded, ok)
		}
		encoded := EncodeXtext(decoded)
		if IsUTF8(addrType) {
			encoded = EncodeUTF8(decoded)
			if !utf8.ValidString(decoded) {
				t.Errorf("%q decodes to %q", address, decoded)
			}
		}
		if again, ok := DecodeOriginalRecipient(addrType, encoded); !ok || again != decoded || !text.IsASCII(encoded) {
			t.Errorf("%q becomes %q, and that %q", decoded, encoded, again)
		}
	})
}
