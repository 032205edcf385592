package message

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
)

var addressLists = []struct {
	in   string
	want string // local@domain in spelling of the tests, comma between them; "!" for ErrAddress
}{
	{"alice@example.org", "alice@example.org"},
	{" Alice <alice@Example.ORG>", "alice@Example.ORG"},
	{"alice", "alice"},
	{"Alice <alice>, bob (Bob, the builder)", "alice,bob"},
	{`"Doe, John" <john@example.org>, jane@example.org`, "john@example.org,jane@example.org"},
	{"Doe, John <john@example.org>", "Doe,john@example.org"},
	{`"john doe"@example.org`, "john doe@example.org"},
	{`"john\" \\doe" . x @ example . org`, `john" \doe.x@example.org`},
	{"a.b.c@example.org", "a.b.c@example.org"},
	{"a@[192.0.2.1], b@[IPv6:2001:db8::1]", "a@[192.0.2.1],b@[IPv6:2001:db8::1]"},
	{"John Q. Public <j@example.org>", "j@example.org"},
	{"alice@example.com <mallory@example.net>", "mallory@example.net"},
	{"Foo [bar] <x@example.org> (baz (qux \\) )) ", "x@example.org"},
	{"Team: a@example.org, B <b>;", "a@example.org,b"},
	{"undisclosed-recipients:;", ""},
	{"A:a@example.org;, b@example.org, C:;", "a@example.org,b@example.org"},
	{"<@hub.example.org,@b:user@example.org>", "user@example.org"},
	{", ,a@example.org,,", "a@example.org"},
	{"<>", ""},
	{"", ""},
	{"alice\r\n\t@example.org,\r\n bob", "alice@example.org,bob"},
	{"jos\xc3\xa9@ex\xc3\xa4mple.org", "jos\xc3\xa9@ex\xc3\xa4mple.org"},

	{"John Doe", "!"},
	{"alice@", "!"},
	{"@example.org", "!"},
	{"a@b@c", "!"},
	{`"a"b@example.org`, "!"},
	{"a@example.org b@example.org", "!"},
	{"<a@example.org> <b@example.org>", "!"},
	{"<a@example.org> b", "!"},
	{"<a@example.org", "!"},
	{"<<a@example.org>>", "!"},
	{"a@example.org>", "!"},
	{"(a@example.org", "!"},
	{"a) b", "!"},
	{`"a@example.org`, "!"},
	{`"a\`, "!"},
	{"(\\", "!"},
	{"a@[192.0.2.1", "!"},
	{"A: B: a@example.org;;", "!"},
	{"A: a@example.org", "!"},
	{"a;", "!"},
	{":a;", "!"},
	{"<@a;b:c@d>", "!"},
	{"a\\b@c", "!"},
	{"a\x01@c", "!"},
	{strings.Repeat("x", maxAddress+1) + "@c", "!"},
	{strings.Repeat("x", maxAddress+1) + " <a@c>", "a@c"},
}

func spell(list []Mailbox) string {
	var out []string
	for _, m := range list {
		s := m.Local
		if m.Domain != "" {
			s += "@" + m.Domain
		}
		out = append(out, s)
	}
	return strings.Join(out, ",")
}

func TestParseMailboxes(t *testing.T) {
	for _, c := range addressLists {
		list, err := ParseMailboxes([]byte(c.in))
		if c.want == "!" {
			if !errors.Is(err, ErrAddress) {
				t.Errorf("%.60q: %q, %v; want ErrAddress", c.in, spell(list), err)
			}
			continue
		}
		if err != nil || spell(list) != c.want {
			t.Errorf("%.60q: %q, %v; want %q", c.in, spell(list), err, c.want)
		}
	}
}

// A megabyte of anything is read or refused in one pass.
func TestParseMailboxesHostile(t *testing.T) {
	const n = 1 << 20
	for _, c := range []struct {
		name, in string
		err      error
	}{
		{"a million addresses", strings.Repeat("a,", n/2), ErrTooManyAddresses},
		{"a million commas", strings.Repeat(",", n), nil},
		{"deep comment", strings.Repeat("(", n/2) + strings.Repeat(")", n/2), nil},
		{"open comments", strings.Repeat("(", n), ErrAddress},
		{"long phrase", strings.Repeat("a ", n/2) + "<a@b>", nil},
		{"long local part", strings.Repeat("a.", n/2) + "a@b", ErrAddress},
		{"dots with blanks", strings.Repeat("a . ", n/4) + "a@b", ErrAddress},
		{"long quoted string", `"` + strings.Repeat(`\"`, n/2) + `" <a@b>`, nil},
		{"many quoted strings", strings.Repeat(`"" `, n/3) + `<a@b>`, nil},
		{"long route", "<" + strings.Repeat("@a,", n/3) + ":a@b>", nil},
		{"many groups", strings.Repeat("a:;", n/3), nil},
	} {
		if _, err := ParseMailboxes([]byte(c.in)); !errors.Is(err, c.err) {
			t.Errorf("%s: %v, want %v", c.name, err, c.err)
		}
	}
}

func TestMailboxesOfMessage(t *testing.T) {
	m := mustStage(t, "From: a@example.org\r\nTo: x\r\nfrom : B\r\n <b@example.org>\r\n\r\n")
	list, err := m.Mailboxes("From")
	if err != nil || spell(list) != "a@example.org,b@example.org" || m.Count("FROM") != 2 {
		t.Errorf("%q, %v, %d fields", spell(list), err, m.Count("FROM"))
	}
	if list, err := m.Mailboxes("Sender"); err != nil || len(list) != 0 || m.Count("Sender") != 0 {
		t.Errorf("%q, %v", spell(list), err)
	}
}

// Putting a domain where End says gives the same list with that domain.
func FuzzMailboxes(f *testing.F) {
	for _, c := range addressLists {
		f.Add([]byte(c.in))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		list, err := ParseMailboxes(in)
		if err != nil {
			return
		}
		out := bytes.Clone(in)
		for i, m := range slices.Backward(list) {
			if m.Domain == "" {
				out = slices.Insert(out, m.End, []byte("@example.org")...)
				list[i].Domain = "example.org"
			}
		}
		again, err := ParseMailboxes(out)
		if err != nil || spell(again) != spell(list) {
			t.Errorf("%q\n%q\n%q, %v; want %q", in, out, spell(again), err, spell(list))
		}
	})
}

func BenchmarkParseMailboxes(b *testing.B) {
	value := []byte(strings.Repeat("\"Doe, John\" <john.doe@example.org>,\r\n\t", 100))
	b.SetBytes(int64(len(value)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseMailboxes(value); err != nil {
			b.Fatal(err)
		}
	}
}
