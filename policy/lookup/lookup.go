// Package lookup opens the lookup tables of Postfix by their Postfix names, TYPE:NAME:
//
//	texthash:/etc/postern/senders
//	inline:{example.org=REJECT, { example.net = 550 5.7.1 No mail from here }}
//
// A [Table] maps a key to a value. This package knows nothing about the meaning of either:
// access(5) keys and actions are the subject of package policy.
//
// [Parse] checks the name of a table without touching the file system, so that an error can
// point into the configuration, and [Spec.Open] reads the table. Tables are not watched for
// changes: they are opened once for each reading of the configuration, and a reload opens
// them anew.
//
// To add a table type, write its file (see texthash.go) and add one row to the array types.
package lookup

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"

	"golang.org/x/text/cases"

	"postern/internal/access"
	"postern/internal/text"
)

// A Table is an opened lookup table. All methods can be called by many goroutines at once,
// except Close, which is the last call.
type Table interface {
	fmt.Stringer // the name in the configuration, as in "texthash:/etc/postern/senders"

	// Lookup returns the value of a key. Keys are compared without regard to case. An error
	// means that the table cannot be asked now: the caller must not take it for "not found".
	Lookup(ctx context.Context, key string) (value string, found bool, err error)

	// Check asks the table whether it can answer. It is meant for "postern check".
	Check(ctx context.Context) error

	Close() error
}

// A Lister is a Table whose entries are all known when it is opened, so that the caller can
// check the values before the first lookup.
type Lister interface {
	Table
	Entries() iter.Seq[Entry] // in no particular order
}

// An Entry is one key of a [Lister] with its value.
type Entry struct {
	Key, Value string
	Number     int    // from 1
	Unit       string // what Number counts: "line" or "entry"
}

// Place is where the entry is in the table: "line 7".
func (e Entry) Place() string { return fmt.Sprintf("%s %d", e.Unit, e.Number) }

// A tableType is one row of the array types.
type tableType struct {
	name    string
	example string
	check   func(name string) error // of the part after the colon; nothing is opened
	open    func(name string) (Table, error)
	access  func(name, key string, l *access.List) // what open and the table need
}

// types are all table types that exist.
var types = [...]tableType{
	{"inline", "inline:{example.org=REJECT}", checkInline, openInline, noAccess},
	{"texthash", "texthash:/etc/postern/senders", checkTexthash, openTexthash, texthashAccess},
}

func noAccess(string, string, *access.List) {}

// A missing row is a table type of Postfix that does not exist here.
type missing struct {
	names   []string
	instead string
}

// missingTypes are the other types of postconf -m, with what to use in their place.
var missingTypes = [...]missing{
	{[]string{"hash", "lmdb", "btree", "cdb", "dbm", "sdbm"}, "write texthash: before the path of the text file that postmap reads, without .db, .lmdb or .cdb"},
	{[]string{"cidr", "regexp", "pcre"}, "list the addresses and domains in a texthash: file, in which example.org covers its subdomains too"},
	{[]string{"ldap", "mysql", "pgsql", "sqlite", "socketmap", "tcp", "memcache", "nis", "nisplus", "netinfo"}, "export the entries to a texthash: file and reload postern when they change"},
	{[]string{"proxy"}, "remove \"proxy:\" and name a texthash: file"},
	{[]string{"static", "fail", "unionmap", "pipemap", "randmap", "environ", "internal", "unix", "debug"}, "use inline:{KEY=VALUE} or a texthash: file"},
}

// A Spec is the checked name of a table.
type Spec struct {
	kind *tableType
	name string // what follows the colon
}

// Parse checks TYPE:NAME. It opens nothing.
func Parse(spec string) (Spec, error) {
	kind, name, ok := strings.Cut(spec, ":")
	if !ok {
		return Spec{}, fmt.Errorf("%q is not a lookup table: write TYPE:NAME, such as %s", spec, examples())
	}
	for i := range types {
		if types[i].name != kind {
			continue
		}
		if err := types[i].check(name); err != nil {
			return Spec{}, fmt.Errorf("%q: %w", spec, err)
		}
		return Spec{&types[i], name}, nil
	}
	return Spec{}, unknownType(spec, kind)
}

func unknownType(spec, kind string) error {
	for _, m := range missingTypes {
		if slices.Contains(m.names, kind) {
			return fmt.Errorf("%q: table type %q is not available yet, only %s; %s", spec, kind, available(), m.instead)
		}
	}
	return fmt.Errorf("%q: unknown table type %q; available are %s: write for example %s", spec, kind, available(), examples())
}

// available lists the names of types.
func available() string {
	names := make([]string, len(types))
	for i := range types {
		names[i] = types[i].name
	}
	return strings.Join(names, ", ")
}

func examples() string {
	all := make([]string, len(types))
	for i := range types {
		all[i] = types[i].example
	}
	return strings.Join(all, " or ")
}

func (s Spec) String() string { return s.kind.name + ":" + s.name }

// Open opens the table. The caller must close it.
func (s Spec) Open() (Table, error) {
	t, err := s.kind.open(s.name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.kind.name, err)
	}
	return t, nil
}

// Access adds to l the files that Open reads and the hosts that the table connects to. key is
// the configuration key that names the table.
func (s Spec) Access(key string, l *access.List) { s.kind.access(s.name, key, l) }

// memory is a table whose entries are in memory. It is immutable once it has been filled.
type memory struct {
	spelling string
	unit     string            // what the numbers of the records count
	entries  map[string]record // by folded key
}

type record struct {
	value  string
	number int
}

func (m *memory) add(key, value string, number int) error {
	key = fold(key)
	if first, ok := m.entries[key]; ok {
		return fmt.Errorf("duplicate key %q, which %s %d has too; remove one of the two", key, m.unit, first.number)
	}
	m.entries[key] = record{value, number}
	return nil
}

func (m *memory) String() string { return m.spelling }

func (m *memory) Lookup(_ context.Context, key string) (string, bool, error) {
	r, ok := m.entries[fold(key)]
	return r.value, ok, nil
}

func (m *memory) Entries() iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		for key, r := range m.entries {
			if !yield(Entry{key, r.value, r.number, m.unit}) {
				return
			}
		}
	}
}

func (m *memory) Check(context.Context) error { return nil }
func (m *memory) Close() error                { return nil }

// fold returns the form in which keys are compared: lower case, or Unicode case folding for
// keys that are not ASCII, as in Postfix with smtputf8_enable.
func fold(key string) string {
	if text.IsASCII(key) {
		return strings.ToLower(key)
	}
	return cases.Fold().String(key)
}

// separators are the bytes between the words of a list in main.cf.
const separators = ", \t\r\n"

// Fields splits a list at commas and blanks, but not inside braces, as Postfix's mystrtokq()
// does. Braces must be balanced.
func Fields(list string) ([]string, error) {
	var fields []string
	depth, start := 0, -1
	for i := range len(list) {
		c := list[i]
		if depth == 0 && strings.IndexByte(separators, c) >= 0 {
			if start >= 0 {
				fields = append(fields, list[start:i])
			}
			start = -1
			continue
		}
		if start < 0 {
			start = i
		}
		switch {
		case c == '{':
			depth++
		case c == '}' && depth > 0:
			depth--
		}
	}
	if depth > 0 {
		return nil, fmt.Errorf("%q has a \"{\" without its \"}\"; add the missing brace", list[start:])
	}
	if start >= 0 {
		fields = append(fields, list[start:])
	}
	return fields, nil
}

// Unbrace removes one pair of braces, and the blanks inside it, from a field that is written
// as { ... }. Other fields are returned as they are.
func Unbrace(field string) string {
	if !braced(field) {
		return field
	}
	return strings.Trim(field[1:len(field)-1], " \t\r\n")
}

// braced reports whether the "{" at the beginning of a field is closed at its end.
func braced(field string) bool {
	if !strings.HasPrefix(field, "{") {
		return false
	}
	depth := 0
	for i := range len(field) {
		switch field[i] {
		case '{':
			depth++
		case '}':
			depth--
		}
		if depth == 0 {
			return i == len(field)-1
		}
	}
	return false
}

// keyEnd returns where the key at the beginning of s ends: at the first byte of stops that is
// neither escaped nor in double quotes.
func keyEnd(s, stops string) (int, error) {
	quoted := false
	i := 0
	for ; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && strings.IndexByte(stops, c) >= 0:
			return i, nil
		}
	}
	if quoted {
		return 0, fmt.Errorf(`%q has a double quote without its partner; add it, or write \" for a quote in a local part`, s)
	}
	return len(s), nil
}
