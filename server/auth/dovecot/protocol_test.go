package dovecot

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"postern/internal/text"
	"postern/server/auth"
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
		t.Errorf("a line without its end was returned: %q", fields)
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
		{"FAIL\t3\tresp=!!!", verbFail, 3, ""}, // a refusal whatever its data
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

// FuzzLine checks that an escaped text is one field of one line and is restored by
// unescape, and that the parser accepts or refuses every line without a panic.
func FuzzLine(f *testing.F) {
	for _, s := range []string{"", "alice", "a\tb\nc", "\x00\x01", "OK\t1\tuser=alice", "CONT\t1\t", "FAIL\t1\ttemp"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if fields := splitLine([]byte(escape(string(raw)))); len(fields) != 1 || fields[0] != string(raw) {
			t.Errorf("%q was restored as %q", raw, fields)
		}
		if strings.ContainsAny(escape(string(raw)), "\x00\t\r\n") {
			t.Errorf("%q was not escaped", raw)
		}
		a, err := parseAnswer(splitLine(raw))
		if err != nil {
			return
		}
		if id, err := a.result(); err == nil && (a.verb != verbOK || !text.ValidName(id.User, maxUser) || a.params.has("nologin")) {
			t.Errorf("%q authenticates %+v", raw, id)
		}
	})
}

func TestGreeting(t *testing.T) {
	tests := []struct {
		name, text string
		want       []string
	}{
		{"2.3", goodGreeting, []string{"PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256", "ANONYMOUS"}},
		{"order of the documentation", "VERSION\t1\t1\nSPID\t1\nCUID\t1\nCOOKIE\tx\nMECH\tPLAIN\nDONE\n", []string{"PLAIN"}},
		{"1.0", "VERSION\t1\t0\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\nDONE\n", []string{"PLAIN"}},
		{"later minor version", "VERSION\t1\t99\tx\nNEWS\t1\n\nMECH\tPLAIN\tshiny\nDONE\tx\n", []string{"PLAIN"}},
		{"names", "VERSION\t1\t2\nMECH\nMECH\t\nMECH\tpl ain\nMECH\tA\x01l250 B\nMECH\t" + strings.Repeat("A", 21) +
			"\nMECH\tPLAIN\nMECH\tPLAIN\nDONE\n", []string{"PLAIN"}},
	}
	for _, tt := range tests {
		g, err := readGreeting(newLineReader(strings.NewReader(tt.text)))
		if err != nil || !slices.Equal(names(g.mechanisms), tt.want) {
			t.Errorf("%s: %q and %v, want %q", tt.name, names(g.mechanisms), err, tt.want)
		}
	}
}

func TestBadGreeting(t *testing.T) {
	tests := map[string]string{
		"empty":         "",
		"DONE only":     "DONE\n",
		"no VERSION":    "MECH\tPLAIN\nVERSION\t1\t2\nDONE\n",
		"version 2":     "VERSION\t2\t0\nMECH\tPLAIN\nDONE\n",
		"version 0":     "VERSION\t0\t1\nMECH\tPLAIN\nDONE\n",
		"no numbers":    "VERSION\tone\ttwo\nMECH\tPLAIN\nDONE\n",
		"one number":    "VERSION\t1\nMECH\tPLAIN\nDONE\n",
		"no mechanisms": "VERSION\t1\t2\nDONE\n",
		"cut":           "VERSION\t1\t2\nMECH\tPLAIN\nDON",
		"SMTP":          "220 mx.example.org ESMTP\r\n",
		"endless":       "VERSION\t1\t2\n" + strings.Repeat("X\n", 1<<16),
		"long":          "VERSION\t1\t2\nMECH\t" + strings.Repeat("P", 1<<20) + "\nDONE\n",
	}
	for name, text := range tests {
		if g, err := readGreeting(newLineReader(strings.NewReader(text))); err == nil {
			t.Errorf("%s: parsed as %+v", name, g)
		}
	}
}

func TestManyMechanisms(t *testing.T) {
	var text strings.Builder
	text.WriteString("VERSION\t1\t2\n")
	for i := range 200 {
		fmt.Fprintf(&text, "MECH\tM%d\n", i)
	}
	text.WriteString("DONE\n")
	g, err := readGreeting(newLineReader(strings.NewReader(text.String())))
	if err != nil || len(g.mechanisms) != maxMechanisms {
		t.Errorf("%d mechanisms and %v", len(g.mechanisms), err)
	}
}

// A master socket sends VERSION and SPID, and then waits for requests.
func TestWrongSocket(t *testing.T) {
	g, err := readGreeting(newLineReader(strings.NewReader("VERSION\t1\t1\nSPID\t1\n")))
	if err = g.explain(err); !errors.Is(err, errWrongSocket) {
		t.Error(err)
	}
}

func TestOK(t *testing.T) {
	tests := []struct {
		line, user, as string
	}{
		{"OK\t1\tuser=alice@example.org", "alice@example.org", "alice@example.org"},
		{"OK\t1\tuser=alice\toriginal_user=ALICE", "alice", "alice"},
		{"OK\t1\tuser=alice\tuser=bob", "alice", "alice"},
		{"OK\t1\tuser=alice\tauth_user=admin", "admin", "alice"},
		{"OK\t1\tx=user=mallory\tuser=alice", "alice", "alice"},
	}
	for _, tt := range tests {
		id, err := resultOf(t, tt.line)
		if want := (auth.Identity{User: tt.user, As: tt.as, Store: Kind}); err != nil || id != want {
			t.Errorf("%q: %+v and %v, want %+v", tt.line, id, err, want)
		}
	}
}

// An OK without a valid user name is a temporary error.
func TestOKWithoutUser(t *testing.T) {
	tests := []string{
		"OK\t1", "OK\t1\tuser=", "OK\t1\tuser", "OK\t1\tuser=alice\tproxy\thost=192.0.2.1", "OK\t1\tuser=alice\tproxy=y",
		"OK\t1\tuser=alice\tauth_user=", "OK\t1\tuser=a\x01lb", "OK\t1\tuser=a\x010b", "OK\t1\tuser=\xff",
		"OK\t1\tuser=" + strings.Repeat("x", maxUser+1),
	}
	for _, line := range tests {
		id, err := resultOf(t, line)
		if _, ok := errors.AsType[*auth.Unavailable](err); !ok || id != (auth.Identity{}) {
			t.Errorf("%q: %+v and %v", line, id, err)
		}
	}
}

func TestRefusal(t *testing.T) {
	tests := []struct {
		line   string
		kind   auth.FailureKind
		reason string
	}{
		{"FAIL\t1", auth.Unknowable, ""},
		{"FAIL\t1\tuser=alice", auth.Unknowable, ""},
		{"FAIL\t1\tuser=alice\treason=Go away", auth.Unknowable, "Go away"},
		{"FAIL\t1\tuser_disabled", auth.Disabled, ""},
		{"FAIL\t1\tcode=user_disabled", auth.Disabled, "user_disabled"},
		{"FAIL\t1\tpass_expired", auth.Expired, ""},
		{"FAIL\t1\tcode=pass_expired\treason=Old", auth.Expired, "pass_expired: Old"},
		{"FAIL\t1\tauthz", auth.NotAllowed, ""},
		{"FAIL\t1\tcode=authz_fail", auth.NotAllowed, "authz_fail"},
		{"FAIL\t1\tcode=news", auth.Unknowable, "news"},
		{"FAIL\t1\treason=a\x01lb\x1b[0m\xff", auth.Unknowable, "a?b?[0m?"},
		{"FAIL\t1\treason=" + strings.Repeat("x", 300), auth.Unknowable, strings.Repeat("x", maxReason)},
		{"OK\t1\tuser=alice\tnologin\treason=Closed", auth.Disabled, "nologin: Closed"},
		{"OK\t1\tnologin=y", auth.Disabled, "nologin"},
	}
	for _, tt := range tests {
		_, err := resultOf(t, tt.line)
		f, ok := errors.AsType[*auth.Failure](err)
		if !ok || f.Kind != tt.kind || f.Reason != tt.reason || f.Store != Kind {
			t.Errorf("%q: %#v", tt.line, err)
		}
	}
}

func TestTemporaryRefusal(t *testing.T) {
	for _, line := range []string{"FAIL\t1\ttemp", "FAIL\t1\tuser=alice\tcode=temp_fail", "FAIL\t1\tuser_disabled\ttemp"} {
		_, err := resultOf(t, line)
		if _, ok := errors.AsType[*auth.Failure](err); ok || err == nil {
			t.Errorf("%q: %v", line, err)
		}
	}
}

// resultOf parses a line and returns its result.
func resultOf(t *testing.T, line string) (auth.Identity, error) {
	t.Helper()
	a, err := parseAnswer(splitLine([]byte(line)))
	if err != nil {
		t.Fatal(err)
	}
	return a.result()
}
