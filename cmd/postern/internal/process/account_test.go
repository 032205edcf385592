package process

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"postern/internal/fileperm"
	"postern/test/kit"
)

func TestMain(m *testing.M) {
	if status, ok := kit.RunSubprocess(map[string]func() int{"drop": dropInSubprocess, "unreadable": openInSubprocess}); ok {
		os.Exit(status)
	}
	os.Exit(kit.Main(m))
}

// becomeNobody drops root as serve does.
func becomeNobody() error {
	a, err := ChooseAccount("nobody")
	if err != nil {
		return err
	}
	return errors.Join(DropPrivileges(a, slog.New(slog.DiscardHandler)), DropCapabilities())
}

// dropInSubprocess drops root, tries to become root again and prints its status.
func dropInSubprocess() int {
	if err := becomeNobody(); err != nil {
		os.Stdout.WriteString(err.Error())
		return 1
	}
	for _, regain := range []func() error{
		func() error { return syscall.Setuid(0) },
		func() error { return syscall.Seteuid(0) },
		func() error { return syscall.Setgid(0) },
		func() error { return syscall.Setgroups([]int{0}) },
	} {
		if regain() == nil {
			os.Stdout.WriteString("the process regained a privilege\n")
			return 1
		}
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		os.Stdout.WriteString(err.Error())
		return 1
	}
	os.Stdout.Write(status)
	return 0
}

func TestDropsRootForGood(t *testing.T) {
	out := kit.AsRoot(t, "drop", 0)
	nobody, err := LookupAccount("nobody")
	kit.Must(t, err)
	for _, line := range strings.Split(out, "\n") {
		key, value, _ := strings.Cut(line, ":")
		fields := strings.Fields(value)
		switch key {
		case "Uid":
			wantAll(t, key, fields, nobody.UID)
		case "Gid":
			wantAll(t, key, fields, nobody.GID)
		case "CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd":
			if strings.Trim(fields[0], "0") != "" {
				t.Errorf("%s = %s after the drop, want none", key, fields[0])
			}
		case "NoNewPrivs":
			if fields[0] != "1" {
				t.Errorf("%s = %s after the drop, want 1", key, fields[0])
			}
		}
	}
}

// wantAll compares the real, effective, saved and file-system ID with want.
func wantAll(t *testing.T, key string, got []string, want int) {
	t.Helper()
	ids, err := atois(got)
	if err != nil || len(ids) != 4 {
		t.Fatalf("%s: %v", key, got)
	}
	for _, id := range ids {
		if id != want {
			t.Errorf("%s = %v after the drop, want only %d", key, got, want)
		}
	}
}

func TestRootNeedsAUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: only root is refused")
	}
	for name, want := range map[string]string{
		"":             "server.user",
		"root":         "unprivileged",
		"0":            "unprivileged",
		"no-such-user": "useradd",
	} {
		if _, err := ChooseAccount(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("user %q: got %v, want an error about %q", name, err, want)
		}
	}
}

func TestFileLimitIsRaised(t *testing.T) {
	limit, err := RaiseFileLimit()
	kit.Must(t, err)
	var l syscall.Rlimit
	kit.Must(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l))
	if uint64(l.Cur) != limit || l.Cur != l.Max {
		t.Errorf("limit is %d of %d, reported %d", l.Cur, l.Max, limit)
	}
}

// openInSubprocess prints the explanation of a file that cannot be opened.
func openInSubprocess() int {
	if err := becomeNobody(); err != nil {
		os.Stdout.WriteString(err.Error())
		return 1
	}
	_, err := os.Open(os.Getenv("POSTERN_TEST_FILE"))
	os.Stdout.WriteString(ExplainUnreadable(err).Error())
	return 0
}

func TestUnreadableFileIsExplained(t *testing.T) {
	root := kit.OpenDir(t)
	open := filepath.Join(root, "open")
	closed := filepath.Join(root, "closed")
	kit.Must(t, os.Mkdir(open, 0o755))
	kit.Must(t, os.Mkdir(closed, 0o700))
	kit.Must(t, os.WriteFile(filepath.Join(open, "users"), nil, 0o600))
	kit.Must(t, os.WriteFile(filepath.Join(open, "key"), nil, 0o640))
	kit.Must(t, os.WriteFile(filepath.Join(closed, "key"), nil, 0o644))
	kit.Must(t, os.Symlink("../closed/key", filepath.Join(open, "link")))

	for _, c := range []struct {
		name, file string
		group      int
		want       []string
	}{
		{"a file for root alone", "open/users", 0, []string{
			"file " + open + "/users", "belongs to root:root with mode 0600", "chgrp nogroup " + open + "/users && chmod g+r " + open + "/users"}},
		{"a file for a group", "open/key", 4, []string{
			"belongs to root:adm with mode 0640", "usermod -a -G adm nobody"}},
		{"a closed directory that a link leads to", "open/link", 0, []string{
			"directory " + closed, "mode 0700", "setfacl -m u:nobody:x " + closed}},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(root, c.file)
			if os.Geteuid() == 0 {
				kit.Must(t, os.Chown(file, 0, c.group))
			}
			out := kit.AsRoot(t, "unreadable", 0, "POSTERN_TEST_FILE="+file)
			for _, want := range c.want {
				if !strings.Contains(out, want) {
					t.Errorf("the explanation lacks %q:\n%s", want, out)
				}
			}
		})
	}
}

func TestCertbotKeyGetsAnACL(t *testing.T) {
	b := fileperm.Blocker{Path: "/etc/letsencrypt/live", Mode: os.ModeDir | 0o700}
	got := permit("/etc/letsencrypt/live/mail.example.org/privkey.pem", b, &Account{Name: "postern", UID: 999, GID: 999})
	want := "setfacl -R -m u:postern:rX,d:u:postern:rX /etc/letsencrypt/live /etc/letsencrypt/archive"
	if !strings.HasPrefix(got, want+"\n") {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

func TestOtherErrorsPassUnexplained(t *testing.T) {
	_, missing := os.Open(filepath.Join(t.TempDir(), "missing"))
	for _, err := range []error{missing, errors.New("plain")} {
		if got := ExplainUnreadable(err); got != err {
			t.Errorf("%v became %v", err, got)
		}
	}
}

func TestShellQuote(t *testing.T) {
	for in, want := range map[string]string{
		"/etc/postern/users": "/etc/postern/users",
		"":                   "''",
		"a b":                "'a b'",
		"it's":               `'it'\''s'`,
		"$(x)":               "'$(x)'",
	} {
		if got := ShellQuote(in); got != want {
			t.Errorf("%q became %s, want %s", in, got, want)
		}
	}
}

func TestParseListening(t *testing.T) {
	const rest = " 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 100 0 0 10 0"
	tests := []struct {
		line string
		want string
	}{
		{"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode", ""},
		{"   0: 0100007F:024B 00000000:0000 0A" + rest, "4711"},
		{"   0: 00000000000000000000000000000000:024B 00000000000000000000000000000000:0000 0A" + rest, "4711"},
		{"   1: 0100007F:024B 0100007F:9C40 01" + rest, ""}, // a connection
		{"   2: 0100007F:1024 00000000:0000 0A" + rest, ""},
		{"", ""},
	}
	for _, tt := range tests {
		if inode, ok := parseListening(tt.line, 587); ok != (tt.want != "") || ok && inode != tt.want {
			t.Errorf("%s: %q, %v", tt.line, inode, ok)
		}
	}
}
