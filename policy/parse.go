package policy

import (
	"errors"
	"fmt"
	"strings"

	"postern/internal/text"
	"postern/policy/lookup"
)

// Words is a list of restrictions as it is configured. In the file it is a string as in
// master.cf, "permit_sasl_authenticated,reject", with commas, blanks or both, or an array of
// such strings. Nil is a list that is absent; an empty one is present and has no restrictions.
type Words []Word

// A Word is one restriction with what precedes and what follows its name.
type Word struct {
	Name string   // in lower case
	Args []string // as many as the restriction has, without the braces around an argument
	Warn bool     // warn_if_reject
}

func (w Word) String() string {
	if w.Warn {
		return warnIfRejectName + " " + w.restriction()
	}
	return w.restriction()
}

// restriction is the name with its arguments. Arguments that Fields would split or change are
// put in braces.
func (w Word) restriction() string {
	s := w.Name
	for _, arg := range w.Args {
		if f, err := lookup.Fields(arg); err != nil || len(f) != 1 || f[0] != arg || lookup.Unbrace(arg) != arg {
			arg = "{ " + arg + " }"
		}
		s += " " + arg
	}
	return s
}

// row is the word's row of the table, or an empty one.
func (w Word) row() entry {
	if e := find(w.Name); e != nil {
		return *e
	}
	return entry{}
}

// String returns a text that parses to the same list.
func (l Words) String() string {
	spelled := make([]string, len(l))
	for i, w := range l {
		spelled[i] = w.String()
	}
	return strings.Join(spelled, ", ")
}

// UnmarshalText decodes a string.
func (l *Words) UnmarshalText(list []byte) error {
	words, err := parseWords(string(list))
	if err != nil {
		return err
	}
	*l = words
	return nil
}

// UnmarshalTOML decodes a string or an array of strings.
func (l *Words) UnmarshalTOML(value any) error {
	list, err := oneString(value)
	if err != nil {
		return err
	}
	return l.UnmarshalText([]byte(list))
}

func parseWords(list string) (Words, error) {
	fields, err := lookup.Fields(list)
	if err != nil {
		return nil, err
	}
	words := Words{}
	warn := false
	for len(fields) > 0 {
		name := fields[0]
		fields = fields[1:]
		if strings.EqualFold(name, warnIfRejectName) {
			warn = true // twice is the same as once
			continue
		}
		e := find(name)
		if e == nil {
			return nil, unknownName(name, words)
		}
		w := Word{Name: e.name, Warn: warn}
		if w.Args, err = e.takeArgs(fields); err != nil {
			return nil, err
		}
		fields = fields[len(e.args):]
		words = append(words, w)
		warn = false
	}
	if warn {
		return nil, errors.New("warn_if_reject needs a restriction after it")
	}
	return words, nil
}

// takeArgs returns the arguments at the beginning of fields.
func (e *entry) takeArgs(fields []string) ([]string, error) {
	var args []string
	for i, a := range e.args {
		if i >= len(fields) || find(fields[i]) != nil || strings.EqualFold(fields[i], warnIfRejectName) {
			return nil, fmt.Errorf("%q needs %s after it, such as %s", e.name, a.what, a.example)
		}
		arg := lookup.Unbrace(fields[i])
		if err := a.check(arg); err != nil {
			return nil, fmt.Errorf("%s: %w", e.name, err)
		}
		args = append(args, arg)
	}
	return args, nil
}

// unknownName is the error for a field that is not a restriction. before are the words before
// it.
func unknownName(name string, before Words) error {
	switch {
	case strings.Contains(name, ":") && len(before) > 0:
		last := before[len(before)-1]
		if n := len(last.row().args); n > 0 {
			return fmt.Errorf("%q is one argument too many: %s takes %d; write %[2]s once more before it", name, last.Name, n)
		}
		return fmt.Errorf("%q: %s takes no argument; write check_sender_access or check_recipient_access before a lookup table", name, last.Name)
	case strings.Contains(name, ":"):
		return fmt.Errorf("%q is a lookup table without a restriction; write check_sender_access or check_recipient_access before it", name)
	case strings.Contains(name, "="):
		return fmt.Errorf("%q: remove the name of the option and write only what follows its \"=\"", name)
	case strings.Contains(name, "$"):
		return fmt.Errorf("%q: variables of main.cf are not available here; write their value", name)
	}
	if near := nearest(name); near != "" {
		return fmt.Errorf("unknown restriction %q, did you mean %q?", name, near)
	}
	return fmt.Errorf("unknown restriction %q; available are: %s", name, strings.Join(names(), " "))
}

// nearest returns the restriction that name probably means: the only one that begins with it
// (after three letters), or the one with the fewest typing errors. It returns "" if there is
// none.
func nearest(name string) string {
	name = strings.ToLower(name)
	var longer []string
	for _, n := range names() {
		if len(name) >= 3 && strings.HasPrefix(n, name) {
			longer = append(longer, n)
		}
	}
	if len(longer) == 1 {
		return longer[0]
	}
	return text.Nearest(name, names())
}
