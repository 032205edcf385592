package fileperm

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"postern/test/kit"
)

func itoa(n int) string { return strconv.Itoa(n) }

// Numbers without names in /etc/passwd and /etc/group.
const (
	server  = 2_000_000_001 // the user of the server, and its group
	alice   = 2_000_000_002 // another user, and her group
	editors = 2_000_000_003 // a group
)

func plainHost() *host {
	return &host{
		uid:     server,
		secrets: []string{"/run/secrets", "/run/credentials/postern.service"},
		modes:   func(string) modes { return stored },
		known:   func(int) bool { return true },
	}
}

// trailOf returns a trail from words such as "d /etc 0755 0 0", "- file mode uid gid", "l link uid
// gid" and "a" for a folder aside.
func trailOf(t *testing.T, words string) (made trail) {
	t.Helper()
	for line := range strings.SplitSeq(words, ", ") {
		f := strings.Fields(line)
		mode, err := strconv.ParseUint(f[2], 8, 32)
		kit.Must(t, err)
		uid, err1 := strconv.Atoi(f[3])
		gid, err2 := strconv.Atoi(f[4])
		kit.Must(t, errors.Join(err1, err2))
		e := entry{path: f[1], mode: fs.FileMode(mode & 0o777), uid: uid, gid: gid, aside: f[0] == "a"}
		if mode&0o1000 != 0 {
			e.mode |= fs.ModeSticky
		}
		switch f[0] {
		case "d", "a":
			e.mode |= fs.ModeDir
		case "l":
			e.mode |= fs.ModeSymlink
		}
		made.entries, made.at = append(made.entries, e), f[1]
	}
	return made
}

// The rules, for each kind of file, as the findings: "E" and "W" with a word of the text.
func TestRules(t *testing.T) {
	const root = "d / 0755 0 0, "
	in := func(h func(*host)) *host {
		p := plainHost()
		h(p)
		return p
	}
	container := in(func(h *host) { h.container = true })
	fixed := func(m modes) *host { return in(func(h *host) { h.modes = func(string) modes { return m } }) }
	for _, tt := range []struct {
		name, trail string
		host        *host
		kind        Kind
		want        string
	}{
		{"letsencrypt", root + "d /live 0700 0 0, l /live/key 0777 0 0, d /archive 0700 0 0, - /archive/key 0600 0 0", nil, Secret, ""},
		{"ssl-cert", root + "d /private 0710 0 110, - /private/key 0640 0 110", nil, Secret, ""},
		{"group of the server", root + "- /key 0640 0 2000000001", nil, Secret, ""},
		{"own file", root + "- /key 0600 2000000001 2000000001", nil, Secret, ""},

		{"readable secret", root + "- /key 0644 0 0", nil, Secret, "E access"},
		{"readable users", root + "- /users 0644 0 0", nil, Private, "W hashes"},
		{"readable table", root + "- /table 0644 0 0", nil, Public, ""},
		{"private folder", root + "d /etc 0750 0 0, - /etc/key 0644 0 0", nil, Secret, ""},
		{"private folder above", root + "d /a 0700 0 0, d /a/b 0755 0 0, - /a/b/key 0644 0 0", nil, Secret, ""},
		{"folder without x", root + "d /etc 0744 0 0, - /etc/key 0644 0 0", nil, Secret, ""},
		{"folder without r", root + "d /etc 0711 0 0, - /etc/key 0644 0 0", nil, Secret, "E access"},
		{"private folder of the link only", root + "a /live 0700 0 0, l /live/key 0777 0 0, d /archive 0755 0 0, - /archive/key 0644 0 0", nil, Secret, "E access"},
		{"Docker's secret", root + "d /run 0755 0 0, d /run/secrets 0755 0 0, - /run/secrets/key 0444 0 0", nil, Secret, ""},
		{"similar folder", root + "d /run 0755 0 0, d /run/secrets2 0755 0 0, - /run/secrets2/key 0444 0 0", nil, Secret, "E access"},
		{"systemd's credential", root + "d /run/credentials/postern.service 0755 0 0, - /run/credentials/postern.service/key 0444 0 0", nil, Secret, ""},
		{"writable secret of Docker", root + "d /run 0755 0 0, d /run/secrets 0755 0 0, - /run/secrets/key 0446 0 0", nil, Secret, "E o-w"},
		{"container", root + "- /key 0644 0 0", container, Secret, "W access"},
		{"users in a container", root + "- /users 0644 0 0", container, Private, "W hashes"},

		{"writable table", root + "- /table 0646 0 0", nil, Public, "E o-w"},
		{"writable in a private folder", root + "d /etc 0700 0 0, - /etc/table 0646 0 0", nil, Public, "E o-w"},
		{"writable folder", root + "d /etc 0757 0 0, - /etc/table 0644 0 0", nil, Public, "E o-w"},
		{"writable folder of a link", root + "a /links 0777 0 0, l /links/table 0777 0 0, - /table 0644 0 0", nil, Public, "E /links"},
		{"sticky folder", root + "d /tmp 1777 0 0, - /tmp/table 0644 0 0", nil, Public, ""},
		{"sticky file", root + "- /table 1646 0 0", nil, Public, "E o-w"},
		{"writable in a container", root + "- /table 0646 0 0", container, Public, "E o-w"},
		{"two reasons", root + "d /etc 0777 0 0, - /etc/key 0666 0 0", nil, Secret, "E /etc, E o-w, E access"},

		{"group", root + "- /table 0664 0 2000000003", nil, Public, "W g-w"},
		{"group of a folder", root + "d /etc 0775 0 2000000003, - /etc/table 0644 0 0", nil, Public, "W g-w"},
		{"group of a sticky folder", root + "d /etc 1775 0 2000000003, - /etc/table 0644 0 0", nil, Public, ""},
		{"root's group", root + "- /table 0664 2000000001 0", nil, Public, ""},
		{"the server's own group", root + "- /table 0664 0 2000000001", nil, Public, ""},
		{"the owner's own group", root + "- /table 0664 2000000002 2000000002", nil, Public, "W user 2000000002 can change"},

		{"owner", root + "- /key 0600 2000000002 2000000002", nil, Secret, "W chown"},
		{"owner of a folder", root + "d /home 0755 2000000002 2000000002, - /home/key 0600 0 0", nil, Secret, "W chown"},
		{"owner of a link", root + "d /tmp 1777 0 0, l /tmp/key 0777 2000000002 2000000002, - /key 0600 0 0", nil, Secret, "W link"},
		{"owner for root", root + "- /key 0600 2000000002 2000000002", in(func(h *host) { h.uid = 0 }), Secret, ""},
		{"owner in a container", root + "- /key 0600 2000000002 2000000002", container, Secret, ""},
		{"owner outside the namespace", root + "- /key 0600 65534 65534", in(func(h *host) { h.known = func(uid int) bool { return uid != 65534 } }), Secret, ""},

		{"vfat", root + "d /boot 0777 0 0, - /boot/key 0777 0 0", fixed(invented), Secret, "W without modes, W without modes, W access"},
		{"vfat with a mask", root + "d /boot 0700 0 0, - /boot/key 0666 0 0", fixed(invented), Secret, "W without modes"},
		{"WSL", root + "d /mnt 0777 0 0, - /mnt/key 0777 0 0", fixed(sometimes), Secret, "W without modes, W without modes, W access"},
		{"a file of Docker Desktop that is mounted alone", root + "- /key 0777 0 0", fixed(sometimes), Public, "W without modes"},
		{"FUSE with modes", root + "d /mnt 0755 0 0, - /mnt/key 0666 0 0", fixed(sometimes), Secret, "E o-w, E access"},
		{"unknown file system", root + "d /mnt 0777 0 0, - /mnt/key 0777 0 0", fixed(unknown), Public, "W without modes, W without modes"},
		{"unknown file system with two owners", root + "d /mnt 0777 0 0, - /mnt/key 0777 2000000001 0", fixed(unknown), Public, "E /mnt, E o-w"},
		{"chmod -R 777", root + "d /etc 0777 0 0, - /etc/key 0777 0 0", nil, Public, "E /etc, E o-w"},
		{"writable folder in a container", root + "d /tmp 1777 0 0, d /tmp/etc 0777 0 0, - /tmp/etc/key 0644 0 0", container, Public, "E /etc"},
		{"writable folder above in a container", root + "d /a 0777 0 0, d /a/b 0777 0 0, d /a/b/c 0755 0 0, - /a/b/c/key 0777 0 0", container, Public, "E /a, E /b, E key"},
		{"Docker Desktop", root + "d /etc 0777 0 0, - /etc/key 0777 0 0", container, Public, "W without modes, W without modes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := tt.host
			if h == nil {
				h = plainHost()
			}
			got := h.judge(trailOf(t, tt.trail), tt.kind)
			var want []string
			if tt.want != "" {
				want = strings.Split(tt.want, ", ")
			}
			if len(got) != len(want) {
				t.Fatalf("%+v, want %q", got, want)
			}
			for i, f := range got {
				letter, word, _ := strings.Cut(want[i], " ")
				if f.serious != (letter == "E") || !strings.Contains(f.text, word) {
					t.Errorf("%+v, want %s", f, want[i])
				}
			}
		})
	}
}

// A folder above a link's target is aside if the target's real path does not have it.
func TestFollow(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	kit.Must(t, err)
	in := func(name string) string { return filepath.Join(dir, name) }
	kit.Must(t, errors.Join(os.Mkdir(in("live"), 0o700), os.Mkdir(in("archive"), 0o700), os.WriteFile(in("archive/key"), nil, 0o600),
		os.Symlink("../archive/key", in("live/key"))))
	got := follow(in("live/key"))
	if got.err != nil || got.at != in("archive/key") || got.file == nil {
		t.Fatalf("%+v", got)
	}
	aside := make(map[string]bool)
	for _, e := range got.entries {
		aside[e.path] = e.aside
	}
	for path, want := range map[string]bool{"/": false, dir: false, in("live"): true, in("live/key"): true, in("archive"): false, in("archive/key"): false} {
		if is, ok := aside[path]; !ok || is != want {
			t.Errorf("%s: found %v, aside %v, want %v", path, ok, is, want)
		}
	}
}

// The kernel resolves ".." after it has followed a link.
func TestParentOfLinkedFolder(t *testing.T) {
	dir := kit.OpenDir(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	kit.Must(t, errors.Join(os.MkdirAll(in("disk/keys"), 0o700), os.WriteFile(in("disk/users"), []byte("right"), 0o600),
		os.WriteFile(in("users"), []byte("wrong"), 0o600), os.Symlink("disk/keys", in("link"))))
	text, err := ReadFile(dir+"/link/../users", Private, "a text file", 100)
	if err != nil || string(text) != "right" {
		t.Errorf("%q, %v", text, err)
	}
}

// Warnings has what Open accepts. Neither concerns files that are missing.
func TestWarnings(t *testing.T) {
	dir := kit.OpenDir(t)
	file := filepath.Join(dir, "users")
	kit.Must(t, errors.Join(os.WriteFile(file, nil, 0o600), os.Chmod(file, 0o644)))
	got := strings.Join(Warnings(file, Private), "\n")
	if !strings.Contains(got, "every user of this machine can read the users and hashes in "+file) || !strings.Contains(got, "chmod o= "+file) {
		t.Errorf("%q", got)
	}
	if err := Check(file, Private); err != nil {
		t.Error(err)
	}
	missing := filepath.Join(dir, "missing")
	if got := Warnings(missing, Secret); len(got) > 0 || Check(missing, Secret) != nil {
		t.Errorf("%q", got)
	}
}

func TestShellQuote(t *testing.T) {
	for s, want := range map[string]string{"/etc/postern": "/etc/postern", "": "''", "a b": "'a b'", "it's": `'it'\''s'`} {
		if got := ShellQuote(s); got != want {
			t.Errorf("%q: %s, want %s", s, got, want)
		}
	}
}
