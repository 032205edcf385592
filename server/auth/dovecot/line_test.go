package dovecot

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestEscapeBothWays(t *testing.T) {
	tests := []struct{ plain, escaped string }{
		{"alice", "alice"},
		{"", ""},
		{"a\tb\nc\rd\x00e\x01f", "a\x01tb\x01lc\x01rd\x010e\x011f"},
		{"\x01t", "\x011t"},
		{"é\u2028", "é\u2028"},
	}
	for _, tt := range tests {
		if got := escape(tt.plain); got != tt.escaped {
			t.Errorf("escape(%q) = %q, want %q", tt.plain, got, tt.escaped)
		}
		if got := unescape(tt.escaped); got != tt.plain {
			t.Errorf("unescape(%q) = %q, want %q", tt.escaped, got, tt.plain)
		}
	}
	if got := unescape("a\x01xb\x01"); got != "axb" {
		t.Errorf("an unknown escape and one cut short: %q", got)
	}
}

func TestReadLine(t *testing.T) {
	r := newLineReader(strings.NewReader("OK\t1\tuser=a\x01tb\n\nhalf a line"))
	first, err := r.next()
	if want := []string{"OK", "1", "user=a\tb"}; err != nil || !slices.Equal(first, want) {
		t.Errorf("got %q and %v, want %q", first, err, want)
	}
	if empty, err := r.next(); err != nil || !slices.Equal(empty, []string{""}) {
		t.Errorf("empty line: got %q and %v", empty, err)
	}
	if fields, err := r.next(); err == nil {
		t.Errorf("half a line was taken for a whole one: %q", fields)
	}
	r = newLineReader(strings.NewReader(strings.Repeat("x", 1<<20) + "\n"))
	if _, err := r.next(); !errors.Is(err, errProtocol) {
		t.Errorf("a line of 1 MiB: %v", err)
	}
}

func TestParseAnswer(t *testing.T) {
	good := []struct {
		line, verb string
		id         uint32
		data       string
	}{
		{"OK\t1\tuser=alice", verbOK, 1, ""},
		{"OK\t4294967295\tuser=alice\tresp=dj0x", verbOK, 4294967295, "v=1"},
		{"CONT\t2\t", verbCont, 2, ""},
		{"CONT\t2\tVXNlcm5hbWU6", verbCont, 2, "Username:"},
		{"FAIL\t3", verbFail, 3, ""},
		{"FAIL\t3\tresp=!!!", verbFail, 3, ""}, // no is no
	}
	for _, tt := range good {
		a, err := parseAnswer(splitLine([]byte(tt.line)))
		if err != nil || a.verb != tt.verb || a.id != tt.id || string(a.data) != tt.data {
			t.Errorf("%q: %+v and %v", tt.line, a, err)
		}
	}
	bad := []string{
		"OK", "OK\t", "OK\tx", "OK\t-1", "OK\t1.0", "OK\t 1", "OK\t4294967296", "OK\t1\tuser=a\tresp=!",
		"CONT\t1", "CONT\t1\t!!!", "CONT\t1\tabc", "FAIL", "FAIL\tuser=alice",
	}
	for _, line := range bad {
		if a, err := parseAnswer(splitLine([]byte(line))); !errors.Is(err, errProtocol) {
			t.Errorf("%q: %+v and %v", line, a, err)
		}
	}
}

// FuzzLine: whatever is escaped stays one field of one line, and comes back. And
// no line breaks the parser.
func FuzzLine(f *testing.F) {
	for _, s := range []string{"", "alice", "a\tb\nc", "\x00\x01", "OK\t1\tuser=alice", "CONT\t1\t", "FAIL\t1\ttemp"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if fields := splitLine([]byte(escape(string(raw)))); len(fields) != 1 || fields[0] != string(raw) {
			t.Errorf("%q came back as %q", raw, fields)
		}
		if strings.ContainsAny(escape(string(raw)), "\x00\t\r\n") {
			t.Errorf("%q was not escaped", raw)
		}
		a, err := parseAnswer(splitLine(raw))
		if err != nil {
			return
		}
		if id, err := a.verdict(); err == nil && (a.verb != verbOK || !isName(id.User) || id.User == "" || a.params.has("nologin")) {
			t.Errorf("%q authenticates %+v", raw, id)
		}
	})
}
