package smtpd

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

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
