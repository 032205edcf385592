package access

import (
	"slices"
	"testing"
)

func TestConnect(t *testing.T) {
	for address, want := range map[string][]uint16{
		"db.example.org:5432":          {5432},
		"[::1]:25":                     {25},
		"inet:127.0.0.1:12345":         {12345},
		"ldaps://ldap.example.org:636": {636},
		"smtp://127.0.0.1:smtp":        {25},
		"/run/dovecot/auth-postern":    nil,
		"lmtp:///run/lmtp.sock":        nil,
		"no port":                      nil,
		"host:99999":                   nil,
	} {
		var l List
		l.Connect("key", address)
		if got := l.PortNumbers(); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", address, got, want)
		}
	}
}

func TestEmptyPathsAreLeftOut(t *testing.T) {
	var l List
	l.Read("key", "")
	l.Write("key", "")
	l.Tree("key", "")
	if len(l.Reads)+len(l.Writes)+len(l.Trees) != 0 {
		t.Errorf("%+v", l)
	}
}

func TestPortNumbers(t *testing.T) {
	l := List{Ports: []Port{{"a", 636}, {"b", 25}, {"c", 636}}}
	if got, want := l.PortNumbers(), []uint16{25, 636}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
