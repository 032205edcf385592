package sqldb

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// A Key is what queries search for: a login, an address. Its fields are words for the query
// and for errors.
type Key struct {
	Variable string // the name of the variable that is the key, such as "user"
	Noun     string // the key in an error, such as "login"
	Column   string // a column that may contain keys, such as "username"
}

// A Query is one statement that returns the rows of a key. It has variables for the key; the
// first one has the name in [Key]:
//
//	{user}    the key
//	{local}   the part before its last "@", all of it if there is none
//	{domain}  the part after it, or an empty text
//
// They are values and not text, and so without quotes: each becomes a parameter of the
// statement, which is sent to the database separately. The key is never part of the text of a
// statement.
type Query struct {
	text string
	key  Key
}

// The variables that every query may have.
const (
	variableLocal  = "{local}"
	variableDomain = "{domain}"
)

var (
	variable = regexp.MustCompile(`\{[a-z_]+\}`)

	// quoted matches a variable next to a quote.
	quoted = regexp.MustCompile("['\"`]\\s*\\{[a-z_]+\\}|\\{[a-z_]+\\}\\s*['\"`]")
)

// ParseQuery checks the variables of a query. The statement itself is checked by the
// database only.
func ParseQuery(text string, k Key) (Query, error) {
	named := false
	for _, v := range variable.FindAllString(text, -1) {
		switch v {
		case k.whole(), variableLocal:
			named = true
		case variableDomain:
		default:
			return Query{}, fmt.Errorf("there is no variable %s; the variables are %s, %s and %s", v, k.whole(), variableLocal, variableDomain)
		}
	}
	if !named {
		return Query{}, fmt.Errorf("the query is the same for every %s; write %s in place of the %s, such as: where %s = %[2]s", k.Variable, k.whole(), k.Noun, k.Column)
	}
	if found := quoted.FindString(text); found != "" {
		return Query{}, fmt.Errorf("%q is inside quotes; remove them, since a variable is a parameter and not text", found)
	}
	return Query{text, k}, nil
}

// whole returns the variable that is the key.
func (k Key) whole() string { return "{" + k.Variable + "}" }

// String returns the query as it was parsed.
func (q Query) String() string { return q.text }

// IgnoresDomain reports whether alice@example.org and alice@example.net may find the same row.
func (q Query) IgnoresDomain() bool {
	return strings.Contains(q.text, variableLocal) && !strings.Contains(q.text, variableDomain)
}

// A statement is a query in the syntax of one driver, with the variable of each parameter.
type statement struct {
	text       string
	parameters []string
}

// translate makes a parameter of every occurrence of a variable, since PostgreSQL derives
// the type of a parameter from its position.
func (q Query) translate(d Driver) statement {
	var s statement
	s.text = variable.ReplaceAllStringFunc(q.text, func(v string) string {
		s.parameters = append(s.parameters, v)
		return d.placeholder(len(s.parameters))
	})
	return s
}

func (d Driver) placeholder(n int) string {
	switch d {
	case Postgres:
		return "$" + strconv.Itoa(n)
	case SQLite:
		return "?" + strconv.Itoa(n)
	}
	return "?"
}

// arguments returns the values of the parameters.
func (s statement) arguments(key string) []any {
	local, domain := key, ""
	if at := strings.LastIndexByte(key, '@'); at >= 0 {
		local, domain = key[:at], key[at+1:]
	}
	arguments := make([]any, len(s.parameters))
	for i, p := range s.parameters {
		switch p {
		case variableLocal:
			arguments[i] = local
		case variableDomain:
			arguments[i] = domain
		default:
			arguments[i] = key
		}
	}
	return arguments
}
