package sqldb

import (
	"slices"
	"strings"
	"testing"
)

// login is the key of the tests.
var login = Key{Variable: "user", Noun: "login", Column: "username"}

func parse(t testing.TB, text string) Query {
	t.Helper()
	q, err := ParseQuery(text, login)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func TestTranslate(t *testing.T) {
	q := parse(t, "select h from u where n = {user} or (l = {local} and d = {domain}) or m = {user} and p = '{a,b}'")
	want := map[Driver]string{
		Postgres: "select h from u where n = $1 or (l = $2 and d = $3) or m = $4 and p = '{a,b}'",
		MySQL:    "select h from u where n = ? or (l = ? and d = ?) or m = ? and p = '{a,b}'",
		SQLite:   "select h from u where n = ?1 or (l = ?2 and d = ?3) or m = ?4 and p = '{a,b}'",
	}
	for d, text := range want {
		s := q.translate(d)
		if s.text != text {
			t.Errorf("%s: %s", d, s.text)
		}
		for login, values := range map[string][]any{
			"a@b@example.org": {"a@b@example.org", "a@b", "example.org", "a@b@example.org"},
			"alice":           {"alice", "alice", "", "alice"},
			"{domain}":        {"{domain}", "{domain}", "", "{domain}"},
		} {
			if got := s.arguments(login); !slices.Equal(got, values) {
				t.Errorf("%s: %q", login, got)
			}
		}
	}
}

func TestQueriesRefused(t *testing.T) {
	for query, text := range map[string]string{
		"":                                                "same for every user",
		"select h from u":                                 "same for every user",
		"select h from u where d = {domain}":              "same for every user",
		"select h from u where n = '{user}'":              "quotes",
		"select h from u where n = ' {user}'":             "quotes",
		`select h from u where n = "{user}"`:              "quotes",
		"select h from u where n = `{user}`":              "quotes",
		"select h from u where n = {username}":            "{username}",
		"select h from u where n = {user} and {password}": "{password}",
	} {
		if _, err := ParseQuery(query, login); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", query, err)
		}
	}
}

// The variable of the whole key has the name that the caller gives it, in the query and in
// errors.
func TestKeyNames(t *testing.T) {
	address := Key{Variable: "key", Noun: "lookup key", Column: "address"}
	q, err := ParseQuery("select a from s where n = {key} and d = {domain}", address)
	if err != nil {
		t.Fatal(err)
	}
	if got := q.translate(MySQL).arguments("a@b"); !slices.Equal(got, []any{"a@b", "b"}) {
		t.Errorf("%q", got)
	}
	for query, want := range map[string]string{
		"select a from s where n = {user}": "there is no variable {user}; the variables are {key}, {local} and {domain}",
		"select a from s":                  "the query is the same for every key; write {key} in place of the lookup key, such as: where address = {key}",
	} {
		if _, err := ParseQuery(query, address); err == nil || err.Error() != want {
			t.Errorf("%s: %v", query, err)
		}
	}
}

// For every query there are as many parameters as values, in their order, and the rest of the
// text is unchanged.
func FuzzTranslate(f *testing.F) {
	f.Add("select h from u where n = {user}")
	f.Add("{user}{local}{domain}$1?{")
	f.Add("{{user}}{user}{{local}")
	f.Fuzz(func(t *testing.T, text string) {
		q, err := ParseQuery(text, login)
		if err != nil {
			return
		}
		for _, d := range []Driver{Postgres, MySQL, SQLite} {
			s := q.translate(d)
			if len(s.arguments("a@b")) != len(s.parameters) {
				t.Fatalf("%s: %d parameters", d, len(s.parameters))
			}
			var want strings.Builder
			rest := text
			for i, p := range s.parameters {
				before, after, _ := strings.Cut(rest, p)
				want.WriteString(before + d.placeholder(i+1))
				rest = after
			}
			if want.WriteString(rest); want.String() != s.text {
				t.Errorf("%s: %q became %q, want %q", d, text, s.text, want.String())
			}
			if len(s.parameters) == 0 {
				t.Errorf("%s: %q has no parameter", d, text)
			}
		}
	})
}
