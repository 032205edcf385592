package sql

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestTranslate(t *testing.T) {
	var q Query
	set(t, &q, "select h from u where n = {user} or (l = {local} and d = {domain}) or m = {user} and p = '{a,b}'")
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
		if err := new(Query).UnmarshalText([]byte(query)); err == nil || !strings.Contains(err.Error(), text) {
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
		var q Query
		if q.UnmarshalText([]byte(text)) != nil {
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

func TestTally(t *testing.T) {
	var c tally[string, int]
	if got := c.mostCommon(7); got != 7 {
		t.Errorf("nothing yet: %d", got)
	}
	c.add("rare", 1)
	for range 2 {
		c.add("common", 2)
	}
	c.add("rare", 3)
	if got := c.mostCommon(7); got != 2 {
		t.Errorf("%d, want the most common one", got)
	}
	for i := range 2 * maxTally {
		c.add(fmt.Sprint(i), 4)
	}
	if len(c.counts) > maxTally {
		t.Errorf("%d keys", len(c.counts))
	}
}
