package test

import (
	"os"
	"strings"
	"testing"

	"postern/internal/sqldb"
	"postern/test/kit"
)

// userFixtures prepare user databases.
var userFixtures = map[string]fixture{
	// users LINE...: the user file; a blank is written as "_"
	"users": func(t *testing.T, s *setup, args []string) {
		s.write(t, "users", strings.ReplaceAll(strings.Join(args, "\n"), "_", " ")+"\n")
		kit.Must(t, os.Chmod(s.file("users"), 0o640))
	},
	// sqlite NAME|HASH...: the database users.sqlite with a row for each; a blank is written as "_"
	"sqlite": func(t *testing.T, s *setup, args []string) {
		d := &database{driver: sqldb.SQLite, dsn: s.file("users.sqlite")}
		d.exec(t, "create table users (name text collate nocase, hash text)")
		for _, arg := range args {
			name, stored, _ := strings.Cut(strings.ReplaceAll(arg, "_", " "), "|")
			d.exec(t, "insert into users values ('"+name+"', '"+stored+"')")
		}
		kit.Own(t, d.dsn)
		kit.Must(t, os.Chmod(d.dsn, 0o640))
	},
}
