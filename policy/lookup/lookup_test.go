package lookup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"postern/internal/access"
)

func open(t *testing.T, spec string) (Table, error) {
	t.Helper()
	s, err := Parse(spec)
	if err != nil {
		t.Fatal(err)
	}
	if s.String() != spec {
		t.Errorf("%s became %s", spec, s)
	}
	return s.Open()
}

// texthash writes a file and returns the name of its table.
func texthash(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "table")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return "texthash:" + path
}

// contents are the entries of a table, sorted, as "number key=value".
func contents(t *testing.T, table Table) []string {
	t.Helper()
	var all []string
	for e := range table.(Lister).Entries() {
		value, found, err := table.Lookup(t.Context(), strings.ToUpper(e.Key))
		if !found || value != e.Value || err != nil {
			t.Errorf("Lookup(%q) = %q, %v, %v, want %q", e.Key, value, found, err, e.Value)
		}
		all = append(all, fmt.Sprintf("%d %s=%s", e.Number, e.Key, e.Value))
	}
	slices.Sort(all)
	return all
}

func TestTables(t *testing.T) {
	for _, test := range []struct{ name, spec, want string }{
		{"inline", "inline:{a=1, b=2}", "1 a=1; 2 b=2"},
		{"blanks", "inline:{ a=1,\tB=2\n\n,, }", "1 a=1; 2 b=2"},
		{"braces", "inline:{{ a@example.org = REJECT not, today }, {b={x}}}", "1 a@example.org=REJECT not, today; 2 b={x}"},
		{"equals signs", "inline:{a==b=c}", "1 a==b=c"},
		{"a quoted key", `inline:{{"a = b"@example.org = OK}}`, `1 "a = b"@example.org=OK`},

		{"an empty file", texthash(t, ""), ""},
		{"comments", texthash(t, "# a\n\n  \t\n   # b\n#c"), ""},
		{"white space", texthash(t, "a 1\nb\t \t2  2 \nc\t3\r\nd 4"), "1 a=1; 2 b=2  2; 3 c=3; 4 d=4"},
		{"continuation lines", texthash(t, "a\n 1\n\n# between\n\t2\nb 3\n #\n 4\n"), "1 a=1\t2; 6 b=3 4"},
		{"quoted keys", texthash(t, "\"a b\"@example.org 1\n\"a\\\" c\"@example.org 2\n"), `1 "a b"@example.org=1; 2 "a\" c"@example.org=2`},
		{"folded keys", texthash(t, "A@Example.ORG OK\nGRÜSSE@example.org OK\n"), "1 a@example.org=OK; 2 grüsse@example.org=OK"},
		{"a byte order mark", texthash(t, "\ufeffa REJECT\n"), "1 a=REJECT"},
		{"a number sign in a value", texthash(t, "a OK # no comment\n"), "1 a=OK # no comment"},
	} {
		table, err := open(t, test.spec)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if got := strings.Join(contents(t, table), "; "); got != test.want {
			t.Errorf("%s:\ngot  %s\nwant %s", test.name, got, test.want)
		}
		if _, found, err := table.Lookup(t.Context(), "nothing"); found || err != nil {
			t.Errorf("%s: Lookup of a missing key = %v, %v", test.name, found, err)
		}
		if err := errors.Join(table.Check(t.Context()), table.Close()); err != nil || table.String() != test.spec {
			t.Errorf("%s: %s, %v", test.name, table, err)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for spec, want := range map[string]string{
		"/etc/postern/senders": `is not a lookup table: write TYPE:NAME, such as inline:{example.org=REJECT} or texthash:/etc/postern/senders`,
		"hash:/etc/senders":    `table type "hash" is not available yet, only inline, texthash; write texthash: before the path`,
		"lmdb:/etc/senders":    `table type "lmdb" is not available yet`,
		"cidr:/etc/senders":    `which example.org covers its subdomains too`,
		"proxy:mysql:/etc/x":   `remove "proxy:" and name a texthash: file`,
		"ldap:/etc/x":          `export the entries to a texthash: file and reload postern when they change`,
		"static:OK":            `use inline:{KEY=VALUE} or a texthash: file`,
		"texthahs:/etc/x":      `unknown table type "texthahs"; available are inline, texthash: write for example`,
		"texthash:senders":     `"senders" is not an absolute path; write for example texthash:/etc/postern/senders`,
		"texthash:":            `"" is not an absolute path`,
		"inline:a=b":           `write inline:{KEY=VALUE, { KEY = VALUE WITH BLANKS }}`,
		"inline:{}":            `the table is empty; write inline:`,
		"inline:{a=b}c":        `write inline:{KEY=VALUE`,
		"inline:{a}":           `entry 1: "a" is not KEY=VALUE`,
		"inline:{a=b, c=}":     `entry 2: "c=" is not KEY=VALUE`,
		"inline:{=b}":          `entry 1: "=b" is not KEY=VALUE`,
		"inline:{a b=c}":       `entry 1: "a" is not KEY=VALUE`,
		"inline:{{a=b}{c=d}}":  `"{a=b}{c=d}" has text after its "}"; put a comma between two entries`,
		"inline:{{a=b}":        `write inline:{KEY=VALUE`,
		`inline:{"a=b}`:        `has a double quote without its partner`,
		"inline:{a=b, A=c}":    `entry 2: duplicate key "a", which entry 1 has too; remove one of the two`,
		"inline:{" + strings.Repeat("a=b,", maxInline+1) + "}": `10001 entries, at most 10000 are allowed; move them to a texthash: file`,
	} {
		if _, err := Parse(spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s:\ngot  %v\nwant %s", spec, err, want)
		}
	}
}

func TestTexthashErrors(t *testing.T) {
	for text, want := range map[string]string{
		"a OK\n\nfoo\n":                       `line 3 has the key "foo" and no value; add one, such as REJECT, or remove the line`,
		"a OK\nalias: b\n":                    `line 2 has the key "alias:", which matches nothing; remove the colon`,
		" a OK\n":                             `line 1 begins with a blank, which continues the line before it, and there is none; remove the blank`,
		"a OK\nb\n  OK\nA REJECT\n":           `line 4 has the duplicate key "a", which line 1 has too; remove one of the two`,
		"a OK\n\"b OK\n":                      `line 2 "\"b OK" has a double quote without its partner`,
		"a OK\nb\xff OK\n":                    `line 2 is not UTF-8 text; convert the file to UTF-8`,
		"a\x00 OK\n":                          `line 1 is not UTF-8 text`,
		"a OK\nb " + strings.Repeat("x", 1e5): `line 2 is longer than 65536 bytes; shorten it`,
		"a OK\n" + strings.Repeat(" xxxxxxxxxxxxxxx\n", 5000): `line 1 is longer than 65536 bytes; shorten it`,
	} {
		spec := texthash(t, text)
		_, err := open(t, spec)
		if err == nil || !strings.Contains(err.Error(), strings.TrimPrefix(spec, "texthash:")+": "+want) {
			t.Errorf("%.40q:\ngot  %v\nwant %s", text, err, want)
		}
	}
}

// TestTexthashFiles: only a regular file that exists and is small enough is read, and a named
// pipe does not block.
func TestTexthashFiles(t *testing.T) {
	dir := t.TempDir()
	missing, pipe, large := filepath.Join(dir, "missing"), filepath.Join(dir, "pipe"), filepath.Join(dir, "large")
	if err := errors.Join(syscall.Mkfifo(pipe, 0o600), os.WriteFile(large, nil, 0o600), os.Truncate(large, maxFile+1)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		missing: "no such file or directory; create the file or correct its path",
		pipe:    pipe + " is not a regular file; name a text file",
		dir:     dir + " is not a regular file; name a text file",
		large:   large + " has 268435457 bytes, at most 268435456 are allowed; split it into several tables",
	} {
		_, err := open(t, "texthash:"+path)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s:\ngot  %v\nwant %s", path, err, want)
		}
	}
	var path *fs.PathError
	if _, err := open(t, "texthash:"+missing); !errors.As(err, &path) {
		t.Errorf("%v is no *fs.PathError, so that the command cannot explain it", err)
	}
}

func TestAccess(t *testing.T) {
	var l access.List
	for _, spec := range []string{"texthash:/etc/postern/senders", "inline:{a=b}"} {
		s, err := Parse(spec)
		if err != nil {
			t.Fatal(err)
		}
		s.Access("policy.sender", &l)
	}
	if len(l.Reads) != 1 || l.Reads[0].Key != "policy.sender" || l.Reads[0].Path != "/etc/postern/senders" || len(l.Ports) > 0 {
		t.Errorf("got %+v", l)
	}
}

// TestMissingTypes: a type that exists must not be listed among those that do not.
func TestMissingTypes(t *testing.T) {
	seen := map[string]bool{}
	for i := range types {
		seen[types[i].name] = true
	}
	for _, m := range missingTypes {
		for _, name := range m.names {
			if seen[name] {
				t.Errorf("%s is listed twice", name)
			}
			seen[name] = true
		}
	}
}

func TestFields(t *testing.T) {
	for list, want := range map[string]string{
		"":                           "",
		" a, b\tc\r\n,d ":            "a|b|c|d",
		"a inline:{b=c, d=e}, { f }": "a|inline:{b=c, d=e}|{ f }",
		"{a {b c} d} e":              "{a {b c} d}|e",
		"a} b":                       "a}|b",
	} {
		got, err := Fields(list)
		if err != nil || strings.Join(got, "|") != want {
			t.Errorf("Fields(%q) = %q, %v, want %s", list, got, err, want)
		}
	}
	if _, err := Fields("a {b {c} d"); err == nil || err.Error() != `"{b {c} d" has a "{" without its "}"; add the missing brace` {
		t.Errorf("got %v", err)
	}
	for field, want := range map[string]string{
		"{ a b }": "a b", "{a}": "a", "a": "a", "{a}{b}": "{a}{b}", "{{a}}": "{a}", "{": "{", "x{a}": "x{a}", "{}": "",
	} {
		if got := Unbrace(field); got != want {
			t.Errorf("Unbrace(%q) = %q, want %q", field, got, want)
		}
	}
}

// FuzzTexthash: a file is read or refused, with an error that has its line.
func FuzzTexthash(f *testing.F) {
	for _, seed := range []string{"a OK\n", "a\n OK", "\"a b\" c\n", "# x\n\n y", "a\\", "\xff", "a:\tb\r\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		m := &memory{entries: make(map[string]record)}
		r := texthashReader{table: m, path: "table", values: make(map[string]string)}
		if err := r.read(strings.NewReader(text)); err != nil {
			if !strings.HasPrefix(err.Error(), "table: line ") {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		for key, e := range m.entries {
			if key == "" || e.value == "" || e.number < 1 || e.number > strings.Count(text, "\n")+1 {
				t.Errorf("%q has the entry %q: %+v", text, key, e)
			}
		}
	})
}
