package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Every command that a help text lists has a page, and the page has its options.
func TestManual(t *testing.T) {
	folder := t.TempDir()
	if status := run([]string{"manual", "--example", "../../config.toml.example", folder}, strings.NewReader(""), io.Discard, io.Discard); status != 0 {
		t.Fatalf("status %d", status)
	}
	for page, want := range map[string]string{
		"man8/postern.8":           `\fBpostern\-check\fR(8)`,
		"man8/postern-serve.8":     `\fB\-c, \-\-config\fR file`,
		"man8/postern-auth-test.8": `postern auth test \-u USER`,
		"man8/postern-passwd.8":    "(default: bcrypt)",
		"man5/postern.toml.5":      `\fBmessage_size_limit\fR = "50MiB"`,
		"completions/postern.bash": "complete -o default",
		"completions/_postern":     "#compdef postern",
		"completions/postern.fish": "complete -c postern",
	} {
		if text, err := os.ReadFile(filepath.Join(folder, page)); err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s: %v, or %q is missing", page, err, want)
		}
	}
	var unpaged func(name string)
	unpaged = func(name string) {
		cmd, _, err := newRoot().Find(strings.Fields(name))
		if err != nil {
			t.Fatal(err)
		}
		for _, sub := range cmd.Commands() {
			path := filepath.Join(folder, "man8", pageName(sub)+".8")
			if _, err := os.Stat(path); (err == nil) == sub.Hidden {
				t.Errorf("%s: hidden is %v, its page: %v", sub.CommandPath(), sub.Hidden, err)
			}
			unpaged(strings.TrimSpace(name + " " + sub.Name()))
		}
	}
	unpaged("")
}
