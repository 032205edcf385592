package sql

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// A Query is one statement that yields the row of a user. Where the login
// belongs, it has variables:
//
//	{user}    the login
//	{local}   what stands before its last "@", all of it if there is none
//	{domain}  what stands behind, or an empty text
//
// They stand for values, not for text, and therefore without quotes: each of
// them becomes a parameter of the statement, which the database gets apart from
// it. Nothing that a client sends is ever part of a statement.
type Query struct{ text string }

var (
	variable = regexp.MustCompile(`\{[a-z_]+\}`)
	naming   = regexp.MustCompile(`(?i)username|\*|^\s*call\s`)
	quoted   = regexp.MustCompile("['\"`]\\s*\\{[a-z_]+\\}|\\{[a-z_]+\\}\\s*['\"`]")
)

// UnmarshalText implements encoding.TextUnmarshaler.
func (q *Query) UnmarshalText(text []byte) error {
	s := string(text)
	named := false
	for _, v := range variable.FindAllString(s, -1) {
		switch v {
		case "{user}", "{local}":
			named = true
		case "{domain}":
		default:
			return fmt.Errorf("there is no variable %s; the variables are {user}, {local} and {domain}", v)
		}
	}
	if !named {
		return fmt.Errorf("the query is the same for every user; write {user} where the login belongs, such as: where username = {user}")
	}
	if found := quoted.FindString(s); found != "" {
		return fmt.Errorf("%q is inside quotes; take them away: a variable is a parameter, not text", found)
	}
	*q = Query{s}
	return nil
}

func (q Query) String() string { return q.text }

// mayName reports whether the query can yield the column username: it says so,
// or yields what is defined elsewhere.
func (q Query) mayName() bool { return naming.MatchString(q.text) }

// A statement is a query as one driver takes it, and which part of the login
// each of its parameters is.
type statement struct {
	text       string
	parameters []string
}

// translate gives every occurrence of a variable a parameter of its own:
// PostgreSQL finds out the type of each from where it stands.
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

// arguments are the values of the parameters.
func (s statement) arguments(login string) []any {
	local, domain := login, ""
	if at := strings.LastIndexByte(login, '@'); at >= 0 {
		local, domain = login[:at], login[at+1:]
	}
	parts := map[string]string{"{user}": login, "{local}": local, "{domain}": domain}
	arguments := make([]any, len(s.parameters))
	for i, p := range s.parameters {
		arguments[i] = parts[p]
	}
	return arguments
}
