package policy

import (
	"errors"
	"fmt"
	"strings"

	"postern/internal/text"
)

// Words is a list of restrictions as the configuration spells it. In the file
// it is a string as in master.cf, "permit_sasl_authenticated,reject", with
// commas, blanks or both, or an array of such strings. Nil is a list that is
// absent, an empty one is a list that is there and asks nothing.
type Words []Word

// A Word is one restriction, in lower case, with what is said before it.
type Word struct {
	Name string
	Warn bool // warn_if_reject
}

func (w Word) String() string {
	if w.Warn {
		return warnIfRejectName + " " + w.Name
	}
	return w.Name
}

// String is a spelling that parses to the same list.
func (l Words) String() string {
	spelled := make([]string, len(l))
	for i, w := range l {
		spelled[i] = w.String()
	}
	return strings.Join(spelled, ", ")
}

// UnmarshalText takes the list from a string.
func (l *Words) UnmarshalText(text []byte) error {
	words, err := parseWords(string(text))
	if err != nil {
		return err
	}
	*l = words
	return nil
}

// UnmarshalTOML takes the list from a string or an array of strings.
func (l *Words) UnmarshalTOML(value any) error {
	text, err := oneString(value)
	if err != nil {
		return err
	}
	return l.UnmarshalText([]byte(text))
}

func parseWords(text string) (Words, error) {
	words := Words{}
	warn := false
	for _, field := range fields(text) {
		if strings.EqualFold(field, warnIfRejectName) {
			warn = true // said twice it means the same
			continue
		}
		e := find(field)
		if e == nil {
			return nil, unknownName(field)
		}
		words = append(words, Word{Name: e.name, Warn: warn})
		warn = false
	}
	if warn {
		return nil, errors.New("warn_if_reject needs a restriction after it")
	}
	return words, nil
}

// fields splits where Postfix does.
func fields(text string) []string {
	return strings.FieldsFunc(text, func(c rune) bool {
		return strings.ContainsRune(", \t\r\n", c)
	})
}

// oneString makes one string of the two forms of a list.
func oneString(value any) (string, error) {
	switch v := value.(type) {
	case string:
		return v, nil
	case []any:
		parts := make([]string, len(v))
		for i, element := range v {
			s, ok := element.(string)
			if !ok {
				return "", fmt.Errorf("element %d is %v, but each one has to be a string in quotes", i+1, element)
			}
			parts[i] = s
		}
		return strings.Join(parts, ","), nil
	}
	return "", fmt.Errorf(`%v is neither a string ("a, b") nor an array of strings (["a", "b"])`, value)
}

// unknownName says what to write instead.
func unknownName(name string) error {
	switch {
	case strings.Contains(name, "="):
		return fmt.Errorf("%q: leave out the name of the option and write only what stands behind its \"=\"", name)
	case strings.Contains(name, "$"):
		return fmt.Errorf("%q: variables of main.cf are not known here, write their value", name)
	case strings.Contains(name, ":"):
		return fmt.Errorf("%q: lookup tables are not supported", name)
	}
	if near := nearest(name); near != "" {
		return fmt.Errorf("unknown restriction %q, did you mean %q?", name, near)
	}
	return fmt.Errorf("unknown restriction %q, there are: %s", name, strings.Join(names(), " "))
}

// nearest returns the restriction that name probably means: the only one that begins
// with it (after three letters), or the one with the fewest typing errors. It returns ""
// if there is none.
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
