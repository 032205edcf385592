package text

import (
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestIsASCII(t *testing.T) {
	for s, want := range map[string]bool{"": true, "a\x00\x7f": true, "ä": false, "a\x80": false, "a\xff": false} {
		if IsASCII(s) != want {
			t.Errorf("IsASCII(%q) = %v", s, !want)
		}
	}
}

func TestPrintable(t *testing.T) {
	const in = "a\r\n\t\x1b[2J\u2028\u202e\u00a0é\xff\ufffd"
	for replacement, want := range map[rune]string{
		' ':    "a    [2J   é  ",
		'?':    "a????[2J???é??",
		'\xff': "aÿÿÿÿ[2Jÿÿÿéÿÿ",
		-1:     "a[2Jé",
	} {
		if got := Printable(in, replacement); got != want {
			t.Errorf("with %q: %q, want %q", replacement, got, want)
		}
	}
	if got := Replace("a\tb\x00c\xff", unicode.IsControl, '?'); got != "a?b?c\ufffd" {
		t.Errorf("control characters only: %q", got)
	}
}

// What logs and reports quote from a next hop.
func TestLine(t *testing.T) {
	for in, want := range map[string]string{
		"":                      "",
		" \r\n ":                "",
		"550 5.1.1\r\n\tno  us": "550 5.1.1 no us",
		"a\x00b\u00a0c":         "a b c",
		"1234567890123456":      "123456789012345",
		"1234567890123é":        "1234567890123é",
		"12345678901234é":       "12345678901234",
	} {
		if got := Line(in, 15); got != want {
			t.Errorf("Line(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestCut(t *testing.T) {
	for _, test := range []struct {
		in    string
		limit int
		want  string
	}{
		{"", 0, ""},
		{"a", 0, ""},
		{"abc", 3, "abc"},
		{"abc", 2, "ab"},
		{"aé", 2, "a"},
		{"a€", 3, "a"},
		{"a😀", 4, "a"},
		{"a😀b", 5, "a😀"},
		{"\x80\x80\x80\x80\x80\x80", 5, "\x80\x80\x80\x80\x80"}, // never UTF-8
	} {
		if got := Cut(test.in, test.limit); got != test.want {
			t.Errorf("Cut(%q, %d) = %q, want %q", test.in, test.limit, got, test.want)
		}
	}
	if got := Shorten("x"+strings.Repeat("é", 100), 128); got != "x"+strings.Repeat("é", 63)+"..." {
		t.Errorf("shortened to %q", got)
	}
	if got := Shorten("é", 2); got != "é" {
		t.Errorf("shortened to %q", got)
	}
}

func TestValidName(t *testing.T) {
	for name, want := range map[string]bool{
		"":                      false,
		"alice@example.org":     true,
		"o'neil *)(":            true,
		"jürgen":                true,
		"a\nb":                  false,
		"a\u0085b":              false,
		"a\xff":                 false,
		strings.Repeat("x", 20): true,
		strings.Repeat("x", 21): false,
	} {
		if ValidName(name, 20) != want {
			t.Errorf("ValidName(%q) = %v", name, !want)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"permit", "permit_mynetworks", "reject", "defer", "min_version", "session_tickets"}
	for written, want := range map[string]string{
		"permti":              "permit",
		"Reject":              "reject",
		"refer":               "defer",
		"permit_":             "permit",
		"permit_mynetwork":    "permit_mynetworks",
		"permit_my_netwokr":   "permit_mynetworks",
		"minversion":          "min_version",
		"sesion_ticket":       "session_tickets",
		"session_ticketsabcd": "",
		"x":                   "",
		"":                    "",
		"completely":          "",
	} {
		if got := Nearest(written, known); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", written, got, want)
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add("a\r\nb\x1b[2J\u2028\xff", 3)
	f.Add("é€😀", 4)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		limit &= 0xff
		line := Line(s, limit)
		if len(line) > limit || !utf8.ValidString(line) || strings.ContainsFunc(line, Unprintable) {
			t.Errorf("Line(%q, %d) = %q", s, limit, line)
		}
		if cut := Cut(s, limit); len(cut) > limit || !strings.HasPrefix(s, cut) || utf8.ValidString(s) && !utf8.ValidString(cut) {
			t.Errorf("Cut(%q, %d) = %q", s, limit, cut)
		}
		names := []string{"permit", "reject"}
		if near := Nearest(s, names); near != "" && !slices.Contains(names, near) {
			t.Errorf("Nearest(%q) = %q", s, near)
		}
	})
}
