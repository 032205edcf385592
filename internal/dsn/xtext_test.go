package dsn

import (
	"strings"
	"testing"
)

func TestXtext(t *testing.T) {
	for in, want := range map[string]string{
		"":                          "",
		"bob@example.org":           "bob@example.org",
		"b+C3+B6b@example.org":      "b\xc3\xb6b@example.org",
		"b+c3+b6b@example.org":      "b\xc3\xb6b@example.org",
		"b+2Bb+3D+20":               "b+b= ",
		"a=b":                       "a=b",
		"=":                         "=",
		"!~":                        "!~",
		"+0d+0A+00+fF":              "\r\n\x00\xff",
		"+2B20":                     "+20",
		"john+2Bsmith=home@example": "john+smith=home@example",
	} {
		if got, ok := DecodeXtext(in); !ok || got != want {
			t.Errorf("%q: %q, %v", in, got, ok)
		}
		if !ValidXtext(in) {
			t.Errorf("%q is not valid", in)
		}
	}
	for _, in := range []string{
		"+", "a+", "+1", "+1g", "+g1", "++2B", "+ 1", "+-1", "a b", "a\tb", "a\r\nb", "\x00", "\x7f", "b\u00f6b", "b\xff", "bob+tag@example.org",
	} {
		if got, ok := DecodeXtext(in); ok || got != "" || ValidXtext(in) {
			t.Errorf("%q is taken for %q", in, got)
		}
	}
}

func TestEncodeXtext(t *testing.T) {
	if got := EncodeXtext("a+b=c d\xc3\xb6\r\n!~"); got != "a+2Bb+3Dc+20d+C3+B6+0D+0A!~" {
		t.Errorf("%q", got)
	}
}

func TestValidEnvelopeID(t *testing.T) {
	for id, want := range map[string]bool{
		"QQ314159":                       true,
		"a+20b":                          true,
		"a=b":                            true,
		"a+3db+3Dc":                      true,
		strings.Repeat("x", 100):         true,
		strings.Repeat("+20", 100):       true,
		"":                               false,
		strings.Repeat("x", 101):         false,
		strings.Repeat("+20", 100) + "x": false,
		strings.Repeat("+2", 1<<20):      false,
		"a b":                            false,
		"a+":                             false,
		"a+0D+0ABcc:+20eve@example.org":  false,
		"a\r\nb":                         false,
		"a+00b":                          false,
		"a+7Fb":                          false,
		"a+09b":                          false,
		"b+C3+B6b":                       false,
		"b\u00f6b":                       false,
	} {
		if ValidEnvelopeID(id) != want {
			t.Errorf("%.80q: %v", id, !want)
		}
	}
}

// What is valid decodes, what is encoded is valid and decodes to the same, and
// nothing valid can end a line or begin another parameter.
func FuzzXtext(f *testing.F) {
	for _, s := range []string{"", "bob@example.org", "b+C3+b6b", "+", "+0D+0a", "a b", "\xff=", "+2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		decoded, ok := DecodeXtext(s)
		if ok != ValidXtext(s) {
			t.Errorf("%q: valid is %v, decoded is %v", s, !ok, ok)
		}
		if ok && (len(decoded) > len(s) || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })) {
			t.Errorf("%q is taken for xtext", s)
		}
		encoded := EncodeXtext(s)
		if back, ok := DecodeXtext(encoded); !ok || back != s || strings.Contains(encoded, "=") {
			t.Errorf("%q becomes %q, and that %q", s, encoded, back)
		}
		if ValidEnvelopeID(s) && (!ok || len(decoded) > maxEnvelopeID || strings.ContainsFunc(decoded, func(r rune) bool { return r < ' ' || r > '~' })) {
			t.Errorf("%q is taken for an envelope identifier", s)
		}
	})
}
