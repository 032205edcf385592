package smtpd

import (
	"os"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/emersion/go-smtp"

	"postern/internal/text"
)

// FuzzMailParameters and FuzzRcptParameters: what is accepted is what the tables
// allow, and nothing that could end a command line.
func FuzzMailParameters(f *testing.F) {
	for _, seed := range []string{
		"SIZE=1", "SIZE=99999999999999999999", "size=1 BODY=8bitmime SMTPUTF8 RET=HDRS ENVID=x+2B AUTH=<>", "SIZE=1 SIZE=1", "BODY",
		"SMTPUTF8=1", "ENVID=+0D+0A", "AUTH=", "X=1", "=", "RET=FULL\tENVID=a=b", "\u017fIZE=1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c := &Conn{cfg: testConfig(), offer: Offer{Size: 1000, DSN: true, UTF8: true}}
		var o smtp.MailOptions
		if r := parseParameters(c, text, mailParameters, &o); r != nil {
			if r.Code != 501 && r.Code != 504 && r.Code != 552 && r.Code != 555 {
				t.Fatalf("%q: %d", text, r.Code)
			}
			return
		}
		if o.Size < 0 || o.Size > 1000 || len(o.EnvelopeID) > 300 || strings.ContainsFunc(o.EnvelopeID, notGraphic) || o.Auth != nil || o.RequireTLS {
			t.Fatalf("%q became %+v", text, o)
		}
		if o.Body != "" && o.Body != smtp.Body7Bit && o.Body != smtp.Body8BitMIME {
			t.Fatalf("%q became %+v", text, o)
		}
	})
}

func FuzzRcptParameters(f *testing.F) {
	for _, seed := range []string{
		"NOTIFY=NEVER", "notify=success,DELAY ORCPT=rfc822;b+C3+B6b@example.org", "ORCPT=utf-8;\u00f6@x", "ORCPT=;x", "NOTIFY=NEVER,NEVER", "NOTIFY=,",
		"ORCPT=x400;/c=us", "ORCPT=rfc822;+0a", "NOTIFY",
	} {
		f.Add(seed, true)
		f.Add(seed, false)
	}
	f.Fuzz(func(t *testing.T, parameters string, utf8 bool) {
		c := &Conn{cfg: testConfig(), offer: Offer{DSN: true}}
		c.mail.utf8 = utf8
		var o smtp.RcptOptions
		if parseParameters(c, parameters, rcptParameters, &o) != nil {
			return
		}
		sent := string(o.OriginalRecipientType) + o.OriginalRecipient
		if strings.ContainsAny(sent, " \t\r\n\x00") || len(sent) > 500 || len(o.Notify) > 3 {
			t.Fatalf("%q became %+v", parameters, o)
		}
		if !utf8 && !text.IsASCII(sent) {
			t.Fatalf("%q became %+v without SMTPUTF8", parameters, o)
		}
		if empty := reflect.DeepEqual(o, smtp.RcptOptions{}); empty && strings.TrimSpace(parameters) != "" {
			t.Fatalf("%q was accepted for nothing", parameters)
		}
	})
}

func notGraphic(r rune) bool { return r <= ' ' || r > '~' }

func TestParseNumber(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "00": 0, "123": 123, "9223372036854775807": 1<<63 - 1, "9223372036854775808": 1<<63 - 1,
		strings.Repeat("9", 5000): 1<<63 - 1, "": -1, "-1": -1, "+1": -1, "1 ": -1, "0x1": -1, "1e3": -1, "\u0661": -1,
	} {
		n, ok := parseNumber(text)
		if ok != (want >= 0) || ok && n != want {
			t.Errorf("%.30q: %d, %v", text, n, ok)
		}
	}
}

// TestParametersKeepNoLine: a client that pads its lines does not make the server keep
// them for each recipient.
func TestParametersKeepNoLine(t *testing.T) {
	c := &Conn{cfg: testConfig(), offer: Offer{DSN: true}}
	all := make([]smtp.RcptOptions, 1000)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for i := range all {
		line := "NOTIFY=SUCCESS" + strings.Repeat(" ", 16<<10) + "ORCPT=rfc822;a@b.example"
		if r := parseParameters(c, line, rcptParameters, &all[i]); r != nil {
			t.Fatal(r.Text())
		}
	}
	if after := heap(); after > before+4<<20 {
		t.Errorf("%d octets are kept for %d recipients", after-before, len(all))
	}
	if all[0].Notify[0] != smtp.DSNNotifySuccess || all[999].OriginalRecipient != "a@b.example" {
		t.Errorf("%+v", all[0])
	}
}

// TestParsePath compares with the results of a real Postfix. A difference needs a
// reason, and a reason a difference.
func TestParsePath(t *testing.T) {
	table, err := os.ReadFile("testdata/paths.txt")
	if err != nil {
		t.Fatal(err)
	}
	examples := 0
	for line := range strings.SplitSeq(strings.TrimSuffix(string(table), "\n"), "\n") {
		if strings.HasPrefix(line, "#") {
			continue
		}
		examples++
		fields := strings.Split(line, "\t")
		path, err := strconv.Unquote(fields[0])
		if err != nil || len(fields) != 2 && len(fields) != 4 {
			t.Fatalf("bad line: %s", line)
		}
		want := fields[1]
		if len(fields) == 4 {
			want = fields[2]
			if want == fields[1] || fields[3] == "" {
				t.Errorf("%s: a difference without a reason, or the other way round", line)
			}
		}
		if got := describe(path); got != want {
			t.Errorf("%q: %s, want %s", path, got, want)
		}
	}
	if examples < 400 {
		t.Errorf("only %d examples", examples)
	}
}

// describe is the result of parsePath as testdata/paths.txt spells it.
func describe(text string) string {
	p, ok := parsePath(text)
	switch {
	case !ok:
		return "refused"
	case p.IsNull():
		return "null"
	case p.Domain == "":
		p.Domain = "origin.example"
	}
	return p.String()
}

func TestParsePathLimits(t *testing.T) {
	local := func(n int) string { return "<" + strings.Repeat("x", n) + "@example.org>" }
	for text, want := range map[string]bool{
		local(64):  true,
		local(65):  true,
		local(988): true, // 1,000 in all
		local(989): false,
		"<a@" + strings.Repeat("b", 63) + ".org>":                                         true,
		"<a@" + strings.Repeat("b", 64) + ".org>":                                         false,
		"<a@" + strings.Repeat("b.", 126) + "org>":                                        true, // a domain of 255
		"<a@" + strings.Repeat("b.", 127) + "org>":                                        false,
		"<" + strings.Repeat("(", 5000) + "a@b.example" + strings.Repeat(")", 5000) + ">": false,
		"<" + strings.Repeat("@a,", 600) + "@b:a@b.example>":                              true, // a long route, dropped
		strings.Repeat("<", 1990) + "a@b.example>":                                        false,
	} {
		if _, ok := parsePath(text); ok != want {
			t.Errorf("%.40q, %d octets: %v", text, len(text), ok)
		}
	}
}

func TestCutPath(t *testing.T) {
	for in, want := range map[string][2]string{
		"<a@b> SIZE=1":               {"<a@b>", "SIZE=1"},
		" \t<a@b>\tSIZE=1 BODY=7BIT": {"<a@b>", "SIZE=1 BODY=7BIT"},
		"< a @ b > X":                {"< a @ b >", "X"},
		"a@b X":                      {"a@b", "X"},
		`"a b"@c X`:                  {`"a b"@c`, "X"},
		`"a\" b"@c X`:                {`"a\" b"@c`, "X"},
		`<"a> b"@c> X`:               {`<"a> b"@c>`, "X"},
		"Alice <a@b>":                {"Alice", "<a@b>"},
		"<Alice <a@b>> X":            {"<Alice <a@b>>", "X"},
		"<a@b":                       {"<a@b", ""},
		"":                           {"", ""},
	} {
		if path, parameters := cutPath(in); path != want[0] || parameters != want[1] {
			t.Errorf("%q: %q and %q", in, path, parameters)
		}
	}
}

// FuzzParsePath: what is accepted is safe to send, and means the same when it is read
// again.
func FuzzParsePath(f *testing.F) {
	for _, seed := range []string{
		"<a@b.example>", "<>", "<@a,@b:c@d.example>", `<"a b"@c>`, `"Name"<a@b>`, "<a@[IPv6:::1]>", "a", `<a\ b@c>`, "<(x)a@b.>",
		`<"a@b">`, "<<a@b>>", "<ü@ü.example>", `<"\"@b>`, "<a . b @ c . d>",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		path, _ := cutPath(text)
		p, ok := parsePath(path)
		if lenient, also := lenientPath(path); lenient != p && ok || also != ok {
			t.Fatalf("%q: %q, %v; the lenient parser: %q, %v", path, p, ok, lenient, also)
		}
		if !ok || p.IsNull() {
			return
		}
		sent := p.String()
		if len(sent) > maxAddress || !utf8.ValidString(sent) || strings.ContainsFunc(sent, isControl) || p.Local == "" || p.Local[0] == '-' {
			t.Fatalf("%q became %q", text, sent)
		}
		again, ok := parsePath("<" + sent + ">")
		if p.Domain != "" && (!ok || again != p) {
			t.Fatalf("%q became %q, and that %q (%v)", text, sent, again, ok)
		}
		if rest, parameters := cutPath("<" + sent + ">"); rest != "<"+sent+">" || parameters != "" {
			t.Fatalf("%q became %q, which ends early", text, sent)
		}
	})
}
