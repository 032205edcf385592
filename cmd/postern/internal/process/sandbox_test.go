package process

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"postern/internal/access"
	"postern/test/kit"
)

func TestFoldersOfAFile(t *testing.T) {
	dir := resolve(t.TempDir())
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, folder := range []string{"live/mail", "archive/mail", "secrets/..1", "plain"} {
		kit.Must(t, os.MkdirAll(at(folder), 0o700))
	}
	for _, file := range []string{"archive/mail/key1.pem", "secrets/..1/key.pem", "plain/key.pem"} {
		kit.Must(t, os.WriteFile(at(file), nil, 0o600))
	}
	kit.Must(t, os.Symlink("../../archive/mail/key1.pem", at("live/mail/key.pem")))
	kit.Must(t, os.Symlink("..1", at("secrets/..data")))
	kit.Must(t, os.Symlink("..data/key.pem", at("secrets/key.pem")))
	kit.Must(t, os.Symlink("live/mail", at("tls")))
	for file, want := range map[string][]string{
		"plain/key.pem":     {"plain"},
		"plain/missing.pem": {"plain"},
		"live/mail/key.pem": {"archive/mail", "live/mail"},
		"secrets/key.pem":   {"secrets"}, // Kubernetes: a new folder next to ..1 is within it
		"tls/key.pem":       {""},        // the folder of the link, which holds all
	} {
		for i := range want {
			want[i] = at(want[i])
		}
		if got := roots(folders([]access.Path{{Path: at(file)}})); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", file, got, want)
		}
	}
	if got := folders([]access.Path{{Path: "/key.pem"}}); slices.Contains(got, "/") {
		t.Errorf("a file in the root folder allows all of it: %v", got)
	}
}

// An empty environment variable must not allow the working directory, which is /
// under systemd.
func TestRootsAreAbsolute(t *testing.T) {
	if got := roots([]string{"", ".", "/"}); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

// A configuration file that is named relative to its folder is allowed at the
// reload.
func TestResolveReturnsAbsolutePaths(t *testing.T) {
	t.Chdir(t.TempDir())
	here, err := os.Getwd()
	kit.Must(t, err)
	kit.Must(t, os.WriteFile("config.toml", nil, 0o600))
	if got, want := resolve("config.toml"), filepath.Join(resolve(here), "config.toml"); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
