package app_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"postern/cmd/postern/internal/app"
	"postern/cmd/postern/internal/apptest"
	"postern/cmd/postern/internal/check"
	"postern/cmd/postern/internal/config"
	"postern/cmd/postern/internal/process"
	"postern/internal/fileperm"
	"postern/relay/sign"
	"postern/test/kit"
)

// withAllFiles returns a server whose configuration names a file of each kind, in its folder.
func withAllFiles(t *testing.T, dir string) *apptest.Server {
	t.Helper()
	s := apptest.NewIn(t, dir)
	_, err := sign.GenerateKey(s.File("dkim.pem"), sign.Ed25519)
	kit.Must(t, err)
	apptest.WriteFile(t, s.File("credentials"), "postern:topsecret\n")
	apptest.WriteFile(t, s.File("ca.pem"), apptest.ReadFile(t, s.File("cert.pem")))
	apptest.WriteFile(t, s.File("senders"), "spammer@example.org REJECT\n")
	apptest.WriteFile(t, s.File("dsn"), "postern:topsecret@unix(/nowhere)/mail\n")
	apptest.WriteFile(t, s.File("bind"), "topsecret\n")
	apptest.WriteFile(t, s.File("users.sqlite"), "")
	s.Configure(t, fmt.Sprintf(`credentials = %q
ca_file = %q
[[relay.dkim]]
domain = "example.net"
selector = "s1"
key = %q
[policy]
sender = "check_sender_access texthash:%s"
`, s.File("credentials"), s.File("ca.pem"), s.File("dkim.pem"), s.File("senders")))
	const query = `query = "select password, name as username from u where name = {user}"`
	users := fmt.Sprintf("path = %q }", s.File("users"))
	s.Replace(t, users, users+fmt.Sprintf(`,
  { kind = "sql", name = "lite", driver = "sqlite", path = %q, %s },
  { kind = "sql", name = "my", driver = "mysql", dsn_file = %q, %[2]s },
  { kind = "ldap", server_host = ["ldap://127.0.0.1:1"], search_base = "dc=example", bind_dn = "cn=postern", bind_password_file = %[4]q }`,
		s.File("users.sqlite"), query, s.File("dsn"), s.File("bind")))
	return s
}

// files are the names of all files of withAllFiles, and that of the folder.
var files = []string{"config.toml", "cert.pem", "key.pem", "users", "users.sqlite", "dsn", "bind", "credentials", "ca.pem", "dkim.pem", "senders", "."}

// start starts a server that must not start, and returns the error.
func start(t *testing.T, s *apptest.Server) error {
	t.Helper()
	d, err := app.NewDaemon(func() (*config.Config, error) { return config.Load(s.Config()) }, &s.Log)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Start(nil)
}

// A file that every user of the machine can change ends the start with the status of an error in
// the configuration, and is a failure of check. Both name the path and the command that
// corrects it.
func TestFilesThatOthersCanChangeEndTheStart(t *testing.T) {
	s := withAllFiles(t, t.TempDir())
	s.Replace(t, s.Address, "127.0.0.1:0") // a new port for each start
	for _, name := range files {
		path, step := s.File(name), "run chmod o-w "+s.File(name)
		before, err := os.Stat(path)
		kit.Must(t, err)
		kit.Must(t, os.Chmod(path, before.Mode()|0o002))
		if err := start(t, s); err == nil || process.Status(err) != process.ExitConfig || !strings.Contains(err.Error(), step) {
			t.Errorf("%s: start: status %d, %v", name, process.Status(err), err)
		}
		if ok, out := checked(t, s.Config()); ok || !strings.Contains(out, step) {
			t.Errorf("%s: check:\n%s", name, out)
		}
		kit.Must(t, os.Chmod(path, before.Mode()))
	}
	if err := start(t, s); err != nil {
		t.Errorf("with the right modes: %v", err)
	}
}

// A reload with such a file is refused, and so is one with a named pipe in place of a file. The
// last good content stays in use, and the log has the reason.
func TestReloadKeepsTheLastGoodFiles(t *testing.T) {
	s := withAllFiles(t, t.TempDir())
	s.Start(t)
	trusted := s.File("trusted.pem") // the mail client reads the certificate, too
	apptest.WriteFile(t, trusted, apptest.ReadFile(t, s.File("cert.pem")))
	refused := func(name, step string) {
		t.Helper()
		before := len(s.Log.String())
		s.Reload(t, "reload refused")
		s.WaitFor(t, before, step)
		client := s.Trial(t, "alice", "right")
		client.Cert = trusted
		if err := client.Run(t.Context(), s.Mailbox); err != nil {
			t.Errorf("%s: the last good content is not in use: %v", name, err)
		}
	}
	for _, name := range files {
		path := s.File(name)
		before, err := os.Stat(path)
		kit.Must(t, err)
		kit.Must(t, os.Chmod(path, before.Mode()|0o002))
		refused(name, "run chmod o-w "+path)
		kit.Must(t, os.Chmod(path, before.Mode()))
		if name == "." {
			continue
		}
		kit.Must(t, errors.Join(os.Rename(path, path+".old"), syscall.Mkfifo(path, 0o600)))
		refused(name, path)
		kit.Must(t, os.Rename(path+".old", path))
	}
	s.Reload(t, "msg=reloaded")
}

// What every user of the machine can read is a warning: for user files and databases, and in a
// container for secrets. Elsewhere a secret ends the start.
func TestFilesThatOthersCanRead(t *testing.T) {
	dir := kit.OpenDir(t)
	s := withAllFiles(t, dir)
	s.Replace(t, s.Address, "127.0.0.1:0")
	container := fileperm.InContainer()
	for _, tt := range []struct {
		name, key string
		private   bool
	}{
		{"users", "auth.stores[0].path", true},
		{"users.sqlite", "auth.stores[1].path", true},
		{"dsn", "auth.stores[2].dsn_file", false},
		{"bind", "auth.stores[3].bind_password_file", false},
		{"key.pem", "tls.certificates[0].key", false},
		{"dkim.pem", "relay.dkim[0].key", false},
		{"credentials", "relay.credentials", false},
	} {
		path, step := filepath.Join(dir, tt.name), "run chmod o= "+filepath.Join(dir, tt.name)
		kit.Must(t, os.Chmod(path, 0o644))
		again := s.Again()
		err := start(t, again)
		_, out := checked(t, s.Config())
		if tt.private || container {
			if err != nil || !strings.Contains(again.Log.String(), `msg="file permissions" key=`+tt.key) || !strings.Contains(again.Log.String(), step) {
				t.Errorf("%s: %v\n%s", tt.name, err, again.Log.String())
			}
			apptest.WantLines(t, out, "warn  file           "+tt.key+": ", step)
		} else {
			if process.Status(err) != process.ExitConfig || !strings.Contains(err.Error(), step) {
				t.Errorf("%s: status %d, %v", tt.name, process.Status(err), err)
			}
			apptest.WantLines(t, out, "FAIL", step)
		}
		kit.Must(t, os.Chmod(path, 0o600))
	}
	for _, name := range files[:len(files)-1] { // nobody else can reach them
		kit.Must(t, os.Chmod(filepath.Join(dir, name), 0o644))
	}
	kit.Must(t, os.Chmod(dir, 0o750))
	again := s.Again()
	if err := start(t, again); err != nil || strings.Contains(again.Log.String(), "file permissions") {
		t.Errorf("in a private folder: %v\n%s", err, again.Log.String())
	}
}

// What all files of a folder have in common is one warning.
func TestFolderOfManyFiles(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it gives a folder to a group")
	}
	const editors = 2_000_000_003 // without a name
	dir := kit.OpenDir(t)
	s := withAllFiles(t, dir)
	kit.Must(t, errors.Join(os.Chown(dir, 0, editors), os.Chmod(dir, 0o775)))
	s.Start(t)
	want := "the members of group 2000000003 can replace the files in the folder " + dir
	if n := strings.Count(s.Log.String(), want); n != 1 || strings.Count(s.Log.String(), "file permissions") != 1 {
		t.Errorf("%d warnings, want 1:\n%s", n, s.Log.String())
	}
}

// The operand of --config may be a pipe for a command that reads it once, and only for those.
func TestConfigurationFromAPipe(t *testing.T) {
	s := apptest.New(t)
	pipe := s.File("pipe")
	kit.Must(t, syscall.Mkfifo(pipe, 0o600))
	go func() {
		if w, err := os.OpenFile(pipe, os.O_WRONLY, 0); err == nil {
			_, _ = w.WriteString(apptest.ReadFile(t, s.Config()))
			w.Close()
		}
	}()
	if ok, out := checked(t, pipe); !ok {
		t.Errorf("check:\n%s", out)
	}
	if _, err := config.Load(pipe); err == nil || !strings.Contains(err.Error(), "named pipe") {
		t.Errorf("serve: %v", err)
	}
}

// checked runs "postern check".
func checked(t *testing.T, file string) (ok bool, out string) {
	t.Helper()
	var text strings.Builder
	report := check.NewReport(&text, false)
	check.Run(t.Context(), file, check.Options{}, report)
	return !report.Has(check.Fail), text.String()
}
