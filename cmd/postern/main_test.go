package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"postern/test/kit"
)

func TestMain(m *testing.M) {
	if status, ok := kit.RunSubprocess(map[string]func() int{"check": sceneCheck, "confined": sceneConfined}); ok {
		os.Exit(status)
	}
	os.Exit(kit.Main(m))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// command runs postern as a shell would.
func command(t *testing.T, stdin string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(args, strings.NewReader(stdin), &out, &errs)
	return status, out.String(), errs.String()
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	return string(text)
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), 0o600))
}
