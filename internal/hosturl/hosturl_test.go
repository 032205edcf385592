package hosturl

import (
	"errors"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, test := range []struct {
		rest, host, address string
		local               bool
	}{
		{"localhost", "localhost", "localhost:99", true},
		{"LocalHost:1/", "localhost", "localhost:1", true},
		{"mail.example.org:00465", "mail.example.org", "mail.example.org:465", false},
		{"127.0.0.2", "127.0.0.2", "127.0.0.2:99", true},
		{"192.0.2.1:65535", "192.0.2.1", "192.0.2.1:65535", false},
		{"[::1]", "::1", "[::1]:99", true},
		{"[2001:DB8::1]:2", "2001:db8::1", "[2001:db8::1]:2", false},
	} {
		u, err := Parse("x", test.rest, "99")
		if want := (URL{"x", test.host, test.address}); err != nil || u != want {
			t.Errorf("%s: got %+v, %v, want %+v", test.rest, u, err, want)
		}
		if u.Network() != "tcp" || u.IsLocal() != test.local || u.String() != "x://"+test.address {
			t.Errorf("%s: network %s, local %v, %s", test.rest, u.Network(), u.IsLocal(), u)
		}
	}
	for rest, want := range map[string]error{
		"":                       ErrHost,
		":25":                    ErrHost,
		"::1":                    ErrHost,
		"[::1":                   ErrSyntax,
		"[127.0.0.1]":            ErrSyntax,
		"[fe80::1%25eth0]":       ErrHost,
		"local host":             ErrSyntax,
		"-v":                     ErrHost,
		".a":                     ErrHost,
		"a,b":                    ErrHost,
		"ä":                      ErrHost,
		"a:0":                    ErrPort,
		"a:65536":                ErrPort,
		"a:smtp":                 ErrSyntax,
		"a/b":                    ErrRest,
		"a?":                     ErrRest,
		"a#b":                    ErrRest,
		"user:topsecret@a":       ErrUser,
		"user:topsecret@x:y@":    ErrUser,
		strings.Repeat("a", 254): ErrHost,
	} {
		if u, err := Parse("x", rest, "99"); !errors.Is(err, want) || u != (URL{}) {
			t.Errorf("%q: got %v, %v, want %v", rest, u, err, want)
		}
	}
}

func TestSocket(t *testing.T) {
	u, err := Socket("x", "/run/a@b%20")
	if want := (URL{"x", "", "/run/a@b%20"}); err != nil || u != want {
		t.Errorf("got %+v, %v, want %+v", u, err, want)
	}
	if u.Network() != "unix" || !u.IsLocal() || u.String() != "x:///run/a@b%20" {
		t.Errorf("network %s, local %v, %s", u.Network(), u.IsLocal(), u)
	}
	if _, err := Socket("x", "/"+strings.Repeat("a", maxSocketPath-1)); err != nil {
		t.Errorf("the longest path: %v", err)
	}
	for path, want := range map[string]string{
		"":                                       "x:///PATH",
		"/":                                      "x:///PATH",
		"run/x":                                  "x:///PATH",
		"/a\nb":                                  "control character",
		"/a\x7fb":                                "control character",
		"/" + strings.Repeat("a", maxSocketPath): "longer than 107 bytes",
	} {
		if u, err := Socket("x", path); err == nil || !strings.Contains(err.Error(), want) || u != (URL{}) {
			t.Errorf("%q: got %v, %v, want an error with %q", path, u, err, want)
		}
	}
}
