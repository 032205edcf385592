package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"testing"

	"postern/cmd/postern/internal/apptest"
	"postern/cmd/postern/internal/process"
	"postern/test/kit"
)

func TestMain(m *testing.M) { os.Exit(kit.Main(m)) }

// command runs postern as a shell does.
func command(t *testing.T, stdin string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(args, strings.NewReader(stdin), &out, &errs)
	return status, out.String(), errs.String()
}

func TestCommandLine(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "config.toml")
	for _, c := range []struct {
		args   string
		status int
		want   string
	}{
		{"", process.ExitOK, "Usage:"},
		{"serve --help", process.ExitOK, "SIGHUP"},
		{"version", process.ExitOK, "postern "},
		{"verson", process.ExitUsage, `did you mean "version"?`},
		{"auth tset", process.ExitUsage, `did you mean "test"?`},
		{"version more", process.ExitUsage, "unexpected operand"},
		{"serve --confg x", process.ExitUsage, "See 'postern serve --help'."},
		{"passwd", process.ExitUsage, "FILE and USER is missing"},
		{"passwd users", process.ExitUsage, "USER is missing"},
		{"passwd users alice", process.ExitUsage, "--stdin"},
		{"passwd users alice --scheme rot13", process.ExitUsage, "bcrypt"},
		{"auth test", process.ExitUsage, "-u USER is missing"},
		{"auth test -u alice -p secret", process.ExitUsage, "all users of this machine can see"},
		{"dkim keygen", process.ExitUsage, "DOMAIN is missing"},
		{"dkim keygen example.org --type dsa", process.ExitUsage, "rsa, ed25519 or both"},
		{"demo --once --relay smtp://localhost:25", process.ExitUsage, "--relay"},
		{"demo --relay localhost", process.ExitUsage, "smtp://"},
		{"serve --config " + missing, process.ExitConfig, "config.toml.example"},
		{"health --config " + missing, process.ExitConfig, missing},
		{"check --config " + missing, process.ExitFailure, missing},
	} {
		status, stdout, stderr := command(t, "", strings.Fields(c.args)...)
		if status != c.status || !strings.Contains(stdout+stderr, c.want) {
			t.Errorf("postern %s: status %d, want %d and %q in\n%s%s", c.args, status, c.status, c.want, stdout, stderr)
		}
	}
}

func TestPasswdThenAuthTest(t *testing.T) {
	s := apptest.New(t)
	if status, _, stderr := command(t, "blue\n", "passwd", "--stdin", s.File("users"), "carol"); status != process.ExitOK {
		t.Fatalf("passwd: status %d: %s", status, stderr)
	}
	for _, c := range []struct {
		user, password string
		status         int
		want           string
	}{
		{"carol", "blue\n", process.ExitOK, `yes: store userfile accepts "carol"`},
		{"carol", "red\n", process.ExitFailure, "no: store userfile refuses"},
		{"nobody", "blue\n", process.ExitFailure, "no such user"},
		{"carol", "\n", process.ExitFailure, "empty password"},
	} {
		status, stdout, stderr := command(t, c.password, "auth", "test", "--config", s.Config(), "-u", c.user, "-p", "-")
		if status != c.status || !strings.Contains(stdout, c.want) {
			t.Errorf("%s with %q: status %d, want %d and %q in\n%s%s", c.user, c.password, status, c.status, c.want, stdout, stderr)
		}
	}
	kit.Must(t, os.Remove(s.File("users")))
	status, _, stderr := command(t, "blue\n", "auth", "test", "--config", s.Config(), "-u", "carol", "-p", "-")
	if status != process.ExitTempFail {
		t.Errorf("without a store: status %d, want %d\n%s", status, process.ExitTempFail, stderr)
	}
}

// auth test prints what each store was asked and answered, and takes the client's address
// and the password from a file.
func TestAuthTestPrintsCalls(t *testing.T) {
	s := apptest.New(t)
	for file, user := range map[string]string{"first": "carol", "second": "dave"} {
		if status, _, stderr := command(t, "blue\n", "passwd", "--stdin", s.File(file), user); status != process.ExitOK {
			t.Fatalf("passwd: status %d: %s", status, stderr)
		}
	}
	s.Replace(t, apptest.ReadFile(t, s.Config()), strings.Replace(apptest.ReadFile(t, s.Config()), "stores = [",
		`stores = [{ kind = "userfile", name = "first", path = "`+s.File("first")+`" }, { kind = "userfile", name = "second", path = "`+s.File("second")+`" }, `, 1))
	secret := s.File("secret")
	apptest.WriteFile(t, secret, "blue\n")
	for _, c := range []struct {
		args   string
		status int
		wants  []string
	}{
		{"-u dave --client 192.0.2.7", process.ExitOK, []string{
			`store first was asked for "dave" from 192.0.2.7: no such user (`, s.File("first") + ")\n",
			`store second was asked for "dave" from 192.0.2.7: yes (`, s.File("second") + ")\n",
			"store userfile was not asked, since an earlier store decided\n",
		}},
		{"-u dave", process.ExitOK, []string{`was asked for "dave": yes`}},
		{"-u dave --client 192.0.2.7:25", process.ExitUsage, []string{"is not an IP address"}},
		{"-u dave -p -", process.ExitUsage, []string{"either -p or --password-file"}},
		{"-u dave --password-file " + secret + ".gone", process.ExitUsage, []string{"no such file"}},
	} {
		args := append([]string{"auth", "test", "--config", s.Config(), "--password-file", secret}, strings.Fields(c.args)...)
		status, stdout, stderr := command(t, "", args...)
		if status != c.status {
			t.Errorf("%s: status %d, want %d", c.args, status, c.status)
		}
		for _, want := range c.wants {
			if !strings.Contains(stdout+stderr, want) {
				t.Errorf("%s: no %q in\n%s%s", c.args, want, stdout, stderr)
			}
		}
	}
}

// Listeners can have different stores. auth test asks those of one listener, and check
// has a result for each.
func TestCommandsWithDifferentListeners(t *testing.T) {
	s := apptest.New(t)
	if status, _, stderr := command(t, "blue\n", "passwd", "--stdin", s.File("printers"), "laser"); status != process.ExitOK {
		t.Fatalf("passwd: status %d: %s", status, stderr)
	}
	text := strings.Replace(apptest.ReadFile(t, s.Config()), "[tls]\n", `[[listener]]
name = "printers"
address = ["127.0.0.1:0"]
auth.stores = [{ kind = "userfile", path = "`+s.File("printers")+`" }]
[tls]
`, 1)
	apptest.WriteFile(t, s.Config(), text)
	for _, c := range []struct {
		args   string
		status int
		want   string
	}{
		{"--listener printers -u laser", process.ExitOK, `yes: store userfile accepts "laser"`},
		{"--listener submission -u laser", process.ExitFailure, "no such user"},
		{"--listener nowhere -u laser", process.ExitUsage, "the listeners are submission, printers"},
		{"-u laser", process.ExitUsage, "name one of submission, printers with --listener"},
	} {
		args := append([]string{"auth", "test", "--config", s.Config(), "-p", "-"}, strings.Fields(c.args)...)
		status, stdout, stderr := command(t, "blue\n", args...)
		if status != c.status || !strings.Contains(stdout+stderr, c.want) {
			t.Errorf("%s: status %d, want %d and %q in\n%s%s", c.args, status, c.status, c.want, stdout, stderr)
		}
	}
	_, stdout, _ := command(t, "", "check", "--config", s.Config())
	apptest.WantLines(t, stdout, "ok    store          userfile "+s.File("users")+"\n", "ok    store          userfile "+s.File("printers")+" (listener printers)\n",
		"ok    mechanisms     PLAIN LOGIN\n", "ok    mechanisms     PLAIN LOGIN (listener printers)\n")
	apptest.WriteFile(t, s.Config(), strings.Replace(text, "auth.stores", "auth.mechanisms = [\"PLAIN\"]\nrequire_auth = false\npolicy.recipient = \"permit\"\nauth.stores", 1))
	if _, stdout, _ := command(t, "", "check", "--config", s.Config()); !strings.Contains(stdout, `FAIL  policy         listener "printers"`) {
		t.Errorf("an open relay of one listener is not reported:\n%s", stdout)
	}
}

// passwd does not set a password with which no login could succeed. The error has the
// reason.
func TestPasswdRefusesWhatNoSchemeAccepts(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	for _, tt := range []struct{ scheme, password, want string }{
		{"bcrypt", "", "empty"},
		{"bcrypt", strings.Repeat("x", 73), "bcrypt accepts at most 72; choose a shorter password, or one of the schemes sha512-crypt"},
		{"sha512-crypt", strings.Repeat("x", 513), "sha512-crypt accepts at most 512"},
		{"argon2id", strings.Repeat("x", 4097), "the password has 4097 octets, and argon2id accepts at most 4096; choose a shorter password"},
		{"scram-sha-256", strings.Repeat("x", 4097), "scram-sha-256 accepts at most 4096"},
		{"argon2id", strings.Repeat("x", maxPassword+1), "more than 12288 bytes"},
		// Every character has four octets in its prepared form and three as it is typed.
		{"sha512-crypt", strings.Repeat("\u0958", 86), "the password has 516 octets"},
		{"argon2id", "a\x00b", "NUL"},
	} {
		status, _, stderr := command(t, tt.password+"\n", "passwd", "--stdin", "--scheme", tt.scheme, file, "carol")
		if status != process.ExitFailure || !strings.Contains(stderr, tt.want) {
			t.Errorf("%s, %d octets: status %d, %q; want ...%s...", tt.scheme, len(tt.password), status, stderr, tt.want)
		}
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("a refused password has created a file")
	}
}

// "auth test", which sends a password as a client does, accepts the longest password that
// passwd sets.
func TestLongestPasswords(t *testing.T) {
	for scheme, octets := range map[string]int{"bcrypt": 72, "sha512-crypt": 512, "argon2id": 4096, "scram-sha-256": 4096} {
		s := apptest.New(t)
		password := strings.Repeat("x", octets)
		if status, _, stderr := command(t, password+"\n", "passwd", "--stdin", "--scheme", scheme, s.File("users"), "carol"); status != process.ExitOK {
			t.Fatalf("%s: status %d: %s", scheme, status, stderr)
		}
		if status, stdout, stderr := command(t, password+"\n", "auth", "test", "--config", s.Config(), "-u", "carol", "-p", "-"); status != process.ExitOK {
			t.Errorf("%s: status %d\n%s%s", scheme, status, stdout, stderr)
		}
		for _, user := range []string{"carol", "mallory"} {
			wrong := strings.Repeat("x", 9000)
			if status, stdout, stderr := command(t, wrong+"\n", "auth", "test", "--config", s.Config(), "-u", user, "-p", "-"); status != process.ExitFailure {
				t.Errorf("%s, %s with 9,000 octets: status %d\n%s%s", scheme, user, status, stdout, stderr)
			}
		}
	}
}

func TestDKIMKeygen(t *testing.T) {
	dir := t.TempDir()
	args := []string{"dkim", "keygen", "example.org", "--type", "both", "--selector", "s1", "--out", dir}
	status, stdout, stderr := command(t, "", args...)
	if status != process.ExitOK {
		t.Fatalf("status %d: %s", status, stderr)
	}
	for _, want := range []string{
		"s1-rsa._domainkey.example.org", "k=rsa", "s1-ed25519._domainkey.example.org", "k=ed25519",
		"[[relay.dkim]]", `domain = "example.org"`, `selector = "s1-rsa"`,
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("the output lacks %q:\n%s", want, stdout)
		}
	}
	keys, err := filepath.Glob(filepath.Join(dir, "*.pem"))
	kit.Must(t, err)
	if len(keys) != 2 {
		t.Fatalf("keys: %q, want two", keys)
	}
	for _, key := range keys {
		info, err := os.Stat(key)
		kit.Must(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %04o, want 0600", key, info.Mode().Perm())
		}
	}
	if status, _, stderr := command(t, "", args...); status != process.ExitFailure || !strings.Contains(stderr, "exists already") {
		t.Errorf("a second time: status %d: %s", status, stderr)
	}
}

func TestVersion(t *testing.T) {
	module := func(version string) *debug.BuildInfo { return &debug.BuildInfo{Main: debug.Module{Version: version}} }
	for _, tt := range []struct {
		name    string
		stamped string
		info    *debug.BuildInfo
		want    string
	}{
		{"stamped", "1.2.3", module("v1.2.4"), "1.2.3"},
		{"go install", "", module("v0.2.0"), "v0.2.0"},
		{"git", "", module("v0.1.1-0.20261130120000-0123456789ab+dirty"), "v0.1.1-0.20261130120000-0123456789ab+dirty"},
		{"tarball", "", module("(devel)"), release},
		{"without module", "", module(""), release},
		{"without build information", "", nil, release},
	} {
		if got := chooseVersion(tt.stamped, tt.info); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
	if !regexp.MustCompile(`^\d+\.\d+\.\d+$`).MatchString(release) {
		t.Errorf("release is %q", release)
	}
}

func TestServeRefusesRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it is refused to root")
	}
	s := apptest.New(t)
	status, _, stderr := command(t, "", "serve", "--config", s.Config())
	if status != process.ExitConfig || !strings.Contains(stderr, "server.user") {
		t.Errorf("status %d, want %d; it said:\n%s", status, process.ExitConfig, stderr)
	}
}

// check knows by the name of the program that postern itself uses a port.
func TestCheckOfARunningServer(t *testing.T) {
	s := apptest.Start(t)
	status, stdout, _ := command(t, "", "check", "--config", s.Config())
	if status != process.ExitOK {
		t.Errorf("status %d", status)
	}
	if _, err := os.Stat("/proc/self/fd"); err == nil { // this test is postern.test
		apptest.WantLines(t, stdout, "ok    port", "is in use by postern already: postern")
	}
}
