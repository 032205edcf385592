package server

import (
	"testing"

	"postern/server/smtpd"
)

// TestComplete: server.origin, or the hostname, completes an address that has no domain,
// and no other.
func TestComplete(t *testing.T) {
	for _, test := range []struct {
		config Config
		path   smtpd.Path
		want   string
	}{
		{Config{Hostname: "mail.example.org"}, smtpd.Path{Local: "postmaster"}, "postmaster@mail.example.org"},
		{Config{Hostname: "mail.example.org", Origin: "example.org"}, smtpd.Path{Local: "alice"}, "alice@example.org"},
		{Config{Origin: "example.org"}, smtpd.Path{Local: `"a b"`}, `"a b"@example.org`},
		{Config{Origin: "example.org"}, smtpd.Path{Local: `"alice@example.net"`}, `"alice@example.net"@example.org`},
		{Config{Origin: "example.org"}, smtpd.Path{Local: "alice", Domain: "localhost"}, "alice@localhost"},
		{Config{Origin: "example.org"}, smtpd.Path{Local: "alice", Domain: "[192.0.2.1]"}, "alice@[192.0.2.1]"},
		{Config{Origin: "example.org"}, smtpd.Path{}, ""},
	} {
		s := &session{snapshot: &snapshot{config: &test.config}}
		if got := s.complete(test.path); got != test.want {
			t.Errorf("%+v with the origin %q: %q, want %q", test.path, test.config.origin(), got, test.want)
		}
	}
}
