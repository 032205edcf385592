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
	want string // see spell; "!" for ErrAddress
}{
	{"alice@example.org", "alice@example.org"},
	{" Alice <alice@Example.ORG>", "alice@Example.ORG"},
	{"alice", "alice"},
	{"Alice <alice>, bob (Bob, the builder)", "alice,bob"},
	{`"Doe, John" <john@example.org>, jane@example.org`, "john@example.org,jane@example.org"},
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

	{"Doe, John <john@example.org>", "john@example.org"},
	{"Doe (Jr), John <john>", "john"},
	{"Doe, Dr., John <john@example.org>", "john@example.org"},
	{"Doe, Dr. med., John <john@example.org>", "john@example.org"},
	{"Doe, MD, John <john@example.org>", "Doe,john@example.org"},
	{"Doe,, \r\n\tJohn <john@example.org>", "john@example.org"},
	{"alice, van der Berg, MD, Jan <jan@example.org>", "jan@example.org"},
	{"alice, bob@example.net, van der Berg, Jan <jan@example.org>", "alice,bob@example.net,jan@example.org"},
	{"Doe [Sales], John <john@example.org>, Doe, Jane <jane>", "john@example.org,jane"},
	{`Doe, "Jr", John <john@example.org>`, "john@example.org"},
	{"Doe, =?utf-8?q?J=C3=B6rg?= <j@example.org>", "j@example.org"},
	{"M\xc3\xbcller, J\xc3\xb6rg <j@example.org>", "j@example.org"},
	{"alice, <bob@example.org>", "alice,bob@example.org"},
	{"alice, (Bob) <bob@example.org>", "alice,bob@example.org"},
	{"alice, bob@example.org (Bob)", "alice,bob@example.org"},
	{"alice, Team: Bob <bob@example.org>;", "alice,bob@example.org"},
	{"Team: alice; , Bob <bob@example.org>", "alice,bob@example.org"},
	{"Doe, John <>", ""},
	{"Doe, John <@hub.example.org:john>", "john@?"},

	{"=?utf-8?q?Doe,_John?= <john@example.org>", "john@example.org"},
	{"alice, =?utf-8?Q?Doe,_John?= <john@example.org>", "john@example.org"},
	{"alice, =?utf-8?Q?Doe,_John?=", "alice,=?utf-8?Q?Doe,_John?=@?"},
	{"=?utf-8?q?Doe, bob, John?=, carol", "=?utf-8?q?Doe, bob, John?=@?,carol"},
	{"=?utf-8?q?a?==?utf-8?b?Yg==?= <j@example.org>", "j@example.org"},
	{"=?utf-8?b?YWxpY2U=?=", "=?utf-8?b?YWxpY2U=?=@?"},
	{"=?utf-8?x?alice?=, =?utf-8?q?bob, carol?", "=?utf-8?x?alice?=@?,=?utf-8?q?bob@?,carol?"},
	{"=?utf-8?q?alice?=@example.org", "=?utf-8?q?alice?=@example.org"},
	{"=?x?q?a, mallory@example.net, b?= <j@example.org>", "=?x?q?a@?,mallory@example.net,j@example.org"},
	{"=?x?q?a,(?=, bob, =?x?q?c)?= <j@example.org>", "j@example.org"},

	{`"alice"`, "alice@?"},
	{`Bob <"bob smith">, "Bob"@example.org`, "bob smith@?,Bob@example.org"},
	{"jos\xc3\xa9, <jos\xc3\xa9>", "jos\xc3\xa9@?,jos\xc3\xa9@?"},
	{"Dr. Doe, J . Doe, .a, a., a..b", "Dr.Doe@?,J.Doe@?,.a@?,a.@?,a..b@?"},
	{"<@hub.example.org:user>", "user@?"},
	{"a.b, <c.d>, host!e, f%g", "a.b,c.d,host!e,f%g"},

	{"John Doe", "!"},
	{"John Q. Public", "!"},
	{"John Doe, bob", "!"},
	{"Doe, John Q., bob@example.org", "!"},
	{"van der Berg, Team: Jan <jan@example.org>;", "!"},
	{"Team: van der Berg; Jan <jan@example.org>", "!"},
	{"a@example.org b, John <john@example.org>", "!"},
	{"alice@, John <john@example.org>", "!"},
	{"<a b>", "!"},
	{"alice; bob", "!"},
	{"Doe; John <john@example.org>", "!"},
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

// spell writes addresses with commas between them. "@?" is the domain of an
// address that has none and is not Incomplete.
func spell(list []Mailbox) string {
	var out []string
	for _, m := range list {
		s := m.Local
		if m.Domain != "" {
			s += "@" + m.Domain
		} else if !m.Incomplete {
			s += "@?"
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

// A megabyte of anything is read or rejected in one pass.
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
		{"many split names", strings.Repeat("Doe, John <>,", n/13), nil},
		{"long split name", strings.Repeat("John Doe,", n/9) + "MD <a@b>", nil},
		{"many encoded words", strings.Repeat("=?x?q?,?= ", n/10) + "<a@b>", nil},
		{"open encoded words", strings.Repeat("=?x?q?y ", n/8) + "<a@b>", nil},
		{"open encoded word", "=?x?q?" + strings.Repeat(",", n), nil},
		{"long charset", "=?" + strings.Repeat("x", n) + " <a@b>", nil},
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

// soleMailbox accepts the values that real clients send, and not those that need the parser.
func TestSoleMailbox(t *testing.T) {
	for in, want := range map[string]bool{
		" a@example.org":                          true,
		" \t<a.b+c@example.org>  ":                true,
		" Alice B. Example <a@example.org>":       true,
		` "Example, Alice" <a@example.org>`:       true,
		" =?utf-8?q?Al=C3=AFce?= <a@example.org>": true,
		" \xc3\xa9 <a@example.org>":               true,
		"":                                        false,
		" ":                                       false,
		"<":                                       false,
		"<>":                                      false,
		"\"":                                      false,
		"a@":                                      false,
		"a <b@c":                                  false,
		"a@b>":                                    false,
		"<a@b> c":                                 false,
		"a":                                       false,
		"a@b, c@d":                                false,
		"b <a@b>, c":                              false,
		"g: <a@b>":                                false,
		"a@b (c)":                                 false,
		"(c) <a@b>":                               false,
		`"a b"@c`:                                 false,
		`"a\"" <b@c>`:                             false,
		`"a" "b" <b@c>`:                           false,
		"<@r:a@b>":                                false,
		"<a@b@c>":                                 false,
		"=?x?q?a?=@b":                             false,
		"a@[127.0.0.1]":                           false,
		"a\r\n <b@c>":                             false,
		"\x01 <b@c>":                              false,
		"a..b@c":                                  false,
		strings.Repeat("a", maxAddress+1) + "@b":  false,
	} {
		one, ok := soleMailbox([]byte(in))
		if ok != want {
			t.Errorf("%.60q: %v, want %v", in, ok, want)
		}
		if ok {
			wantSole(t, []byte(in), one)
		}
	}
}

// wantSole compares one with the parser's result for the value in.
func wantSole(t *testing.T, in []byte, one Mailbox) {
	t.Helper()
	// With a comma at its end, the value has the same address, and soleMailbox rejects it.
	list, err := ParseMailboxes(append(bytes.Clone(in), ','))
	if err != nil || len(list) != 1 || list[0] != one {
		t.Errorf("%q: %+v; the parser has %+v, %v", in, one, list, err)
	}
}

// A domain inserted at End completes an incomplete address and changes no other.
func FuzzMailboxes(f *testing.F) {
	for _, c := range addressLists {
		f.Add([]byte(c.in))
	}
	for _, in := range []string{" <a@b> ", `"a, b" <c.d@e.f>`, "a =?x?q?b?= <c@d>", "\ta@b"} {
		f.Add([]byte(in))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if one, ok := soleMailbox(in); ok {
			wantSole(t, in, one)
		}
		list, err := ParseMailboxes(in)
		if err != nil {
			return
		}
		out := bytes.Clone(in)
		for i, m := range slices.Backward(list) {
			if m.Incomplete {
				out = slices.Insert(out, m.End, []byte("@example.org")...)
				list[i].Domain, list[i].Incomplete = "example.org", false
			}
		}
		again, err := ParseMailboxes(out)
		if err != nil || spell(again) != spell(list) {
			t.Errorf("%q\n%q\n%q, %v; want %q", in, out, spell(again), err, spell(list))
		}
	})
}

func BenchmarkParseMailboxes(b *testing.B) {
	for name, text := range map[string]string{
		"100": strings.Repeat("\"Doe, John\" <john.doe@example.org>,\r\n\t", 100),
		"one": ` "Doe, John" <john.doe@example.org>`,
	} {
		b.Run(name, func(b *testing.B) {
			value := []byte(text)
			b.SetBytes(int64(len(value)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ParseMailboxes(value); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
