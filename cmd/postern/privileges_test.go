package main

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"postern/internal/fileperm"
	"postern/test/kit"
)

// A test that changes the process for good runs in a copy of the test binary:
// asRoot starts it, and scenes holds what the copy does.
const sceneVariable = "POSTERN_TEST_SCENE"

func TestMain(m *testing.M) {
	if scene, ok := scenes[os.Getenv(sceneVariable)]; ok {
		os.Exit(scene())
	}
	os.Exit(kit.Main(m))
}

var scenes = map[string]func() int{
	"drop":       sceneDrop,
	"unreadable": sceneUnreadable,
	"check":      sceneCheck,
	"confined":   sceneConfined,
}

// asRoot plays a scene in a process of its own and returns what it printed.
func asRoot(t *testing.T, scene string, status int, env ...string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it drops root privileges")
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), sceneVariable+"="+scene)
	cmd.Env = append(cmd.Env, env...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != status {
		t.Fatalf("scene %s: %v, want status %d\n%s", scene, err, status, out)
	}
	return string(out)
}

// becomeNobody is the drop as serve does it.
func becomeNobody() error {
	a, err := chooseAccount("nobody")
	if err != nil {
		return err
	}
	return errors.Join(dropPrivileges(a, slog.New(slog.DiscardHandler)), dropCapabilities())
}

func sceneDrop() int {
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
			os.Stdout.WriteString("a privilege came back\n")
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
	out := asRoot(t, "drop", exitOK)
	nobody, err := lookupAccount("nobody")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(out, "\n") {
		key, value, _ := strings.Cut(line, ":")
		fields := strings.Fields(value)
		switch key {
		case "Uid":
			wantAll(t, key, fields, nobody.uid)
		case "Gid":
			wantAll(t, key, fields, nobody.gid)
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

// wantAll demands the real, effective, saved and file-system id.
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

func sceneUnreadable() int {
	if err := becomeNobody(); err != nil {
		os.Stdout.WriteString(err.Error())
		return 1
	}
	_, err := os.Open(os.Getenv("POSTERN_TEST_FILE"))
	os.Stdout.WriteString(explainUnreadable(err).Error())
	return 0
}

func TestUnreadableFileIsExplained(t *testing.T) {
	root := openDir(t)
	open := filepath.Join(root, "open")
	closed := filepath.Join(root, "closed")
	must(t, os.Mkdir(open, 0o755))
	must(t, os.Mkdir(closed, 0o700))
	must(t, os.WriteFile(filepath.Join(open, "users"), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(open, "key"), nil, 0o640))
	must(t, os.WriteFile(filepath.Join(closed, "key"), nil, 0o644))
	must(t, os.Symlink("../closed/key", filepath.Join(open, "link")))

	for _, c := range []struct {
		name, file string
		group      int
		want       []string
	}{
		{"a file for root alone", "open/users", 0, []string{
			"file " + open + "/users", "belongs to root:root with mode 0600", "chgrp nogroup " + open + "/users && chmod g+r " + open + "/users"}},
		{"a file for a group", "open/key", 4, []string{
			"belongs to root:adm with mode 0640", "usermod -a -G adm nobody"}},
		{"a closed directory behind a link", "open/link", 0, []string{
			"directory " + closed, "mode 0700", "setfacl -m u:nobody:x " + closed}},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(root, c.file)
			if os.Geteuid() == 0 {
				must(t, os.Chown(file, 0, c.group))
			}
			out := asRoot(t, "unreadable", exitOK, "POSTERN_TEST_FILE="+file)
			for _, want := range c.want {
				if !strings.Contains(out, want) {
					t.Errorf("the explanation lacks %q:\n%s", want, out)
				}
			}
		})
	}
}

func TestCertbotKeyGetsAnACL(t *testing.T) {
	b := blocker{fileperm.Blocker{Path: "/etc/letsencrypt/live", Mode: os.ModeDir | 0o700}, "/etc/letsencrypt/live/mail.example.org/privkey.pem"}
	got := b.command(&account{name: "postern", uid: 999, gid: 999})
	want := "setfacl -R -m u:postern:rX,d:u:postern:rX /etc/letsencrypt/live /etc/letsencrypt/archive"
	if !strings.HasPrefix(got, want+"\n") {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

func TestOtherErrorsPassUnexplained(t *testing.T) {
	_, missing := os.Open(filepath.Join(t.TempDir(), "missing"))
	for _, err := range []error{missing, errors.New("plain")} {
		if got := explainUnreadable(err); got != err {
			t.Errorf("%v became %v", err, got)
		}
	}
}

func TestRootNeedsAUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it is refused to root")
	}
	for name, want := range map[string]string{
		"":             "server.user",
		"root":         "unprivileged",
		"0":            "unprivileged",
		"no-such-user": "useradd",
	} {
		if _, err := chooseAccount(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("user %q: got %v, want an error about %q", name, err, want)
		}
	}
}

func TestFileLimitIsRaised(t *testing.T) {
	limit, err := raiseFileLimit()
	if err != nil {
		t.Fatal(err)
	}
	var l syscall.Rlimit
	must(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l))
	if l.Cur != limit || l.Cur != l.Max {
		t.Errorf("limit is %d of %d, reported %d", l.Cur, l.Max, limit)
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
		if got := shellQuote(in); got != want {
			t.Errorf("%q became %s, want %s", in, got, want)
		}
	}
}

// openDir is a folder for everybody; those of t.TempDir are for the tester.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "postern-test")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	return dir
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
