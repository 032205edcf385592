package userfile

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"strings"

	"postern/server/auth"
	"postern/server/auth/hash"
)

// A table is the content of a file.
type table struct {
	accounts map[string]*account // by the folded name
	kind     hash.Kind           // of most hashes
	shape    hash.ScramShape     // of most SCRAM keys
	noScram  []string            // users without SCRAM keys that are not locked
	tooMany  []string            // users whose keys have more iterations than Cyrus SASL computes
	weak     map[string]int      // users by the weakness of their hashes
}

// An account is the first line of a user.
type account struct {
	name   string // as in the file
	stored string // empty: locked
	line   int
	broken error // why no password can be checked
}

// errSpellings is the reason of lines whose names are different and fold to one.
var errSpellings = errors.New("their names are spellings of one login; delete one of them, or set fold = \"none\" if they are two users")

// A problem is a line that is not used as it is. Its reason contains nothing of the line.
type problem struct {
	line  int
	why   string
	what  problemKind
	first int // the other line, of spelling and repetition
}

type problemKind uint8

const (
	skipped    problemKind = iota // the line is no user
	unusable                      // no password of the user can be checked
	spelling                      // the name is another spelling of that of an earlier line
	repetition                    // the name is that of an earlier line, which is used
	cut                           // the clear text may go on behind the separator
)

type problems []problem

// of returns the problems of one kind.
func (p problems) of(what problemKind) (some problems) {
	for _, one := range p {
		if one.what == what {
			some = append(some, one)
		}
	}
	return some
}

// maxListed is how many lines a message lists.
const maxListed = 10

// summary returns one text for all problems.
func (p problems) summary() string {
	var lines []string
	for _, one := range p[:min(len(p), maxListed)] {
		lines = append(lines, fmt.Sprintf("line %d: %s", one.line, one.why))
	}
	if len(p) > maxListed {
		lines = append(lines, fmt.Sprintf("and %d more lines", len(p)-maxListed))
	}
	return strings.Join(lines, "; ")
}

// lines returns the numbers of the lines, "3, 7".
func (p problems) lines() string {
	var numbers []string
	for _, one := range p[:min(len(p), maxListed)] {
		numbers = append(numbers, fmt.Sprint(one.line))
	}
	if len(p) > maxListed {
		return fmt.Sprintf("%s and %d more", strings.Join(numbers, ", "), len(p)-maxListed)
	}
	return strings.Join(numbers, ", ")
}

// parse parses a whole file. It returns an error only if there are too many users, or if the file
// is UTF-16, in which no line means what it says.
func parse(text []byte, fold auth.Fold) (*table, problems, error) {
	if isUTF16(text) {
		return nil, nil, errUTF16
	}
	t := &table{accounts: make(map[string]*account), weak: make(map[string]int)}
	var tally hash.Tally
	var found problems
	number := 0
	for raw := range bytes.Lines(bytes.TrimPrefix(text, byteOrderMark)) {
		number++
		l, why := parseLine(raw)
		if why == "" && l.user == "" {
			continue
		}
		if p := (problem{line: number, why: why}); why != "" || t.enter(fold.Login(l.user), l, &p, &tally) {
			found = append(found, p)
		}
		if len(t.accounts) > maxUsers || len(found) > maxUsers {
			return nil, nil, fmt.Errorf("more than %d users", maxUsers)
		}
	}
	t.kind, t.shape = tally.Kind(), tally.Shape()
	return t, found, nil
}

var errUTF16 = errors.New("the text is UTF-16; convert it to UTF-8: iconv -f UTF-16 -t UTF-8")

// isUTF16 reports whether a file begins as UTF-16 does: with its byte order mark, or with one half
// of an ASCII character that is zero.
func isUTF16(text []byte) bool {
	return len(text) > 1 && (text[0] == 0 || text[1] == 0 || bytes.HasPrefix(text, []byte("\xff\xfe")) || bytes.HasPrefix(text, []byte("\xfe\xff")))
}

// enter adds the user of a line. If there is a problem, it sets all but the line of p.
func (t *table) enter(key string, l line, p *problem, tally *hash.Tally) bool {
	first, twice := t.accounts[key]
	switch {
	case twice && first.name == l.user:
		p.what, p.first = repetition, first.line
		p.why = fmt.Sprintf("the name occurs twice, and its first line, %d, is used; delete one of them", first.line)
		return true
	case twice:
		// Never two passwords of one account, and never another one than the administrator means.
		first.stored, first.broken = "", fmt.Errorf("lines %d and %d: %w", first.line, p.line, errSpellings)
		p.what, p.first = spelling, first.line
		p.why = fmt.Sprintf("this line and line %d have spellings of one login, which gets 454; delete one of them, or set fold = \"none\" if they are two users", first.line)
		return true
	}
	if key == l.user {
		key = l.user // the same memory
	}
	a := &account{name: l.user, line: p.line}
	t.accounts[key] = a
	a.stored, a.broken = t.read(l, tally)
	if a.broken != nil {
		p.what, p.why = unusable, a.broken.Error()
		return true
	}
	if p.why = l.unsupported(); p.why == "" && l.lone && isClear(a.stored) {
		p.what, p.why = cut, fmt.Sprintf("the password in clear text ends at %q; if it goes on after that, set it again with postern passwd", l.separator)
	}
	return p.why != ""
}

// isClear reports whether the password is in clear text and not encoded.
func isClear(stored string) bool {
	h, err := hash.Parse(stored)
	name, _, _ := strings.Cut(stored, "}")
	return err == nil && h.Kind() == "clear" && !strings.Contains(name, ".")
}

// read returns the hash of a line, which is empty if the account is locked.
func (t *table) read(l line, tally *hash.Tally) (stored string, err error) {
	switch {
	case l.closed():
		return "", nil
	case l.stored == "" && len(l.extra) > 0 && strings.ContainsRune("{$", rune(l.extra[0][0])):
		return "", fmt.Errorf("there is no hash between the first %q and the second one, and what follows looks like one; remove the second one", l.separator)
	}
	h, err := hash.Parse(l.stored)
	if err != nil || h.Locked() {
		return "", err
	}
	tally.Add(h)
	if why := h.Weakness(); why != "" {
		t.weak[why]++
	}
	t.list(l.user, h)
	return l.stored, nil
}

// list adds a user that SCRAM locks out to the lists of these.
func (t *table) list(user string, h hash.Hash) {
	if keys, ok := h.ScramKeys(); !ok {
		t.noScram = append(t.noScram, user)
	} else if keys.Iterations > hash.CyrusMaxIterations {
		t.tooMany = append(t.tooMany, user)
	}
}

// find returns the account of a login, which has been folded. Without one it returns a locked
// account without a name. The error is temporary.
func (t *table) find(login string) (account, error) {
	a, ok := t.accounts[login]
	switch {
	case !ok:
		return account{}, nil
	case errors.Is(a.broken, errSpellings):
		return *a, a.broken
	case a.broken != nil:
		return *a, fmt.Errorf("line %d: %w", a.line, a.broken)
	}
	return *a, nil
}

// decoy returns the kind of the hash that is computed for a login without one; fixed is that
// of the configuration.
func (t *table) decoy(fixed hash.Kind) hash.Kind { return cmp.Or(fixed, t.kind) }
