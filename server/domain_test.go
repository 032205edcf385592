package server

import (
	"strings"
	"testing"
)

func TestDomains(t *testing.T) {
	for name, want := range map[string]string{
		"mail.example.org": "", "localhost": "", "mail": "", "postern_1": "", "münchen.example": "", "xn--mnchen-3ya.example": "", "1and1.example": "",

		"https://mail.example.org/":   `is a URL, not a domain name; write hostname = "mail.example.org"`,
		"smtp://mail.example.org:587": `is a URL, not a domain name; write hostname = "mail.example.org"`,
		"mail.example.org/path":       `is a path, not a domain name; write hostname = "mail.example.org"`,
		"192.0.2.1":                   `is an address`,
		"[192.0.2.1]":                 `is an address`,
		"2001:db8::1":                 `is an address`,
		"[2001:db8::1]":               `is an address`,
		"mail.example.org:587":        `is a name with a port; write hostname = "mail.example.org"`,
		"192.0.2.1:587":               `is a name with a port; write hostname = "mail.example.org"`,
		"*.example.org":               `is a wildcard, not the name of one server; write hostname = "mail.example.org"`,
		"mail.example.org.":           `ends with a dot, which SMTP does not permit; write hostname = "mail.example.org"`,
		"postmaster@example.org":      `is a mail address, not a domain name; write hostname = "example.org"`,

		" ": "is not a domain name", "mail example": "is not a domain name", "mail..example": "is not a domain name",
		"-mail.example": "is not a domain name", "a,b": "is not a domain name", "*": "is not a domain name",
		strings.Repeat("a.", 130) + "a": "is not a domain name",
	} {
		if got := badDomain("hostname", name); !strings.HasPrefix(got, want) || (got == "") != (want == "") {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
	if got := badDomain("origin", "*.example.com"); !strings.HasSuffix(got, `write origin = "example.com"`) {
		t.Errorf("origin: %q", got)
	}
}
