package test

import (
	"os"
	"strings"
	"testing"

	"postern/test/kit"
)

// userFixtures prepare user databases.
var userFixtures = map[string]fixture{
	// users LINE...: the user file; a blank is written as "_"
	"users": func(t *testing.T, s *setup, args []string) {
		s.write(t, "users", strings.ReplaceAll(strings.Join(args, "\n"), "_", " ")+"\n")
		kit.Must(t, os.Chmod(s.file("users"), 0o640))
	},
}
