package app_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"postern/cmd/postern/internal/app"
	"postern/cmd/postern/internal/apptest"
	"postern/cmd/postern/internal/config"
	"postern/cmd/postern/internal/process"
	"postern/test/kit"
)

func TestMain(m *testing.M) {
	if status, ok := kit.RunSubprocess(map[string]func() int{"serve": serveConfined}); ok {
		os.Exit(status)
	}
	os.Exit(kit.Main(m))
}

// A confined server runs in another process, in its sandbox. On request it tries an
// operation.
type confined struct {
	*apptest.Server
	in  io.WriteCloser
	out *bufio.Scanner
}

// startConfined starts a server. Its certificate is a link in one folder to a file in
// another, as with certbot.
func startConfined(t *testing.T, sections ...string) *confined {
	t.Helper()
	c := &confined{Server: apptest.NewIn(t, kit.OpenDir(t))}
	archive := kit.OpenDir(t)
	for _, name := range []string{"cert", "key"} {
		link := c.File(name + ".pem")
		kit.Must(t, os.Remove(link))
		kit.Must(t, os.Symlink(filepath.Join(archive, name+"1.pem"), link))
	}
	apptest.Certify(t, filepath.Join(archive, "cert1.pem"), filepath.Join(archive, "key1.pem"))
	kit.Must(t, os.Mkdir(c.File("stage"), 0o700))
	kit.Must(t, os.Mkdir(c.File("state"), 0o700))
	c.configureStaged(t, strings.Join(sections, ""))
	give(t, c.Dir, archive)

	cmd := kit.Subprocess("serve", "POSTERN_TEST_FILE="+c.Config())
	cmd.Stderr = &c.Log
	var err error
	c.in, err = cmd.StdinPipe()
	kit.Must(t, err)
	out, err := cmd.StdoutPipe()
	kit.Must(t, err)
	c.out = bufio.NewScanner(out)
	kit.Must(t, cmd.Start())
	pass := make(chan struct{})
	go func() {
		defer close(pass)
		for s := range c.Signals {
			_ = cmd.Process.Signal(s) // fails if the process has ended
		}
	}()
	t.Cleanup(func() {
		c.Stop(t)
		close(c.Signals)
		<-pass
	})
	ready := c.out.Scan()
	go func() {
		c.Ended <- cmd.Wait()
		close(c.Ended)
	}()
	if !ready {
		t.Fatalf("the server did not start:\n%s", c.Log.String())
	}
	if strings.Contains(c.Log.String(), "this kernel has no Landlock") {
		t.Skip("this kernel has no Landlock (landlock_create_ruleset, /sys/kernel/security/lsm): nothing confines the server")
	}
	return c
}

// configureStaged sets the folders for staged messages and for the state, so that the
// process may not write to /tmp.
func (c *confined) configureStaged(t *testing.T, more string) {
	t.Helper()
	c.Configure(t, more)
	text := apptest.ReadFile(t, c.Config())
	apptest.WriteFile(t, c.Config(), strings.Replace(text, "[server]\n", fmt.Sprintf("[server]\nstage_dir = %q\nstate_dir = %q\n", c.File("stage"), c.File("state")), 1))
}

// give makes the user that the server becomes the owner of folders.
func give(t *testing.T, folders ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	nobody, err := process.LookupAccount("nobody")
	kit.Must(t, err)
	for _, folder := range folders {
		kit.Must(t, filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
			return errors.Join(err, os.Lchown(path, nobody.UID, nobody.GID))
		}))
	}
}

// try returns the result of an operation in the sandbox: "ok", or the error.
func (c *confined) try(t *testing.T, what, on string) string {
	t.Helper()
	if _, err := fmt.Fprintln(c.in, what, on); err != nil {
		t.Fatal(err)
	}
	if !c.out.Scan() {
		t.Fatalf("no answer to %s %s:\n%s", what, on, c.Log.String())
	}
	return c.out.Text()
}

func (c *confined) refuses(t *testing.T, what, on string) {
	t.Helper()
	if got := c.try(t, what, on); !strings.Contains(got, "permission denied") && !strings.Contains(got, "not permitted") {
		t.Errorf("%s %s: %s, want it refused", what, on, got)
	}
}

func (c *confined) allows(t *testing.T, what, on string) {
	t.Helper()
	if got := c.try(t, what, on); got != "ok" {
		t.Errorf("%s %s: %s, want it allowed", what, on, got)
	}
}

// serveConfined serves in a subprocess, and tries the operations on its standard input.
func serveConfined() int {
	file := os.Getenv("POSTERN_TEST_FILE")
	signals := process.CatchSignals()
	d, err := app.NewDaemon(func() (*config.Config, error) { return config.Load(file) }, os.Stderr)
	if err != nil {
		return printError(err)
	}
	defer d.Close()
	d.File = file
	var become *process.Account
	if os.Geteuid() == 0 {
		if become, err = process.LookupAccount("nobody"); err != nil {
			return printError(err)
		}
	}
	if err := d.Start(become); err != nil {
		return printError(err)
	}
	go answer(os.Stdin, os.Stdout)
	if err := d.Run(context.Background(), signals); err != nil {
		return printError(err)
	}
	return process.ExitOK
}

func printError(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return process.ExitFailure
}

func answer(in io.Reader, out io.Writer) {
	fmt.Fprintln(out, "ready")
	for lines := bufio.NewScanner(in); lines.Scan(); {
		what, on, _ := strings.Cut(lines.Text(), " ")
		err := attempts[what](on)
		if err == nil {
			err = errors.New("ok")
		}
		fmt.Fprintln(out, err)
	}
}

var attempts = map[string]func(on string) error{
	"open": func(path string) error { return closing(os.Open(path)) },
	"list": func(path string) error { _, err := os.ReadDir(path); return err },
	"write": func(path string) error {
		return closing(os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600))
	},
	"mkdir": func(path string) error { return os.Mkdir(path, 0o700) },
	"exec":  func(path string) error { return exec.Command(path).Run() },
	"connect": func(address string) error {
		return closing(net.Dial("tcp", address))
	},
	"unix": func(path string) error { return closing(net.Dial("unix", path)) },
	"bind": func(address string) error {
		var config net.ListenConfig
		config.SetMultipathTCP(false) // which Landlock does not restrict
		return closing(config.Listen(context.Background(), "tcp", address))
	},
	"resolve": func(name string) error { _, err := net.LookupHost(name); return err },
	"signal": func(pid string) error {
		n, err := strconv.Atoi(pid)
		if err != nil {
			return err
		}
		return syscall.Kill(n, 0)
	},
}

func closing(c io.Closer, err error) error {
	if err != nil {
		return err
	}
	return c.Close()
}

// Operations of an attacker who controls the process.
func TestSandboxRefuses(t *testing.T) {
	c := startConfined(t)
	elsewhere := kit.OpenDir(t)
	shadow := filepath.Join(elsewhere, "shadow")
	kit.Must(t, os.WriteFile(shadow, []byte("root:$6$:::::::\n"), 0o644)) // a copy that all users may read
	kit.Must(t, os.Chmod(elsewhere, 0o777))
	foreign, err := net.Listen("tcp", "127.0.0.1:0")
	kit.Must(t, err)
	defer foreign.Close()

	c.refuses(t, "open", "/etc/shadow")
	c.refuses(t, "open", shadow)
	c.refuses(t, "list", elsewhere)
	c.refuses(t, "list", "/home")
	c.refuses(t, "open", "/proc/1/cmdline")
	c.refuses(t, "write", filepath.Join(elsewhere, "new"))
	c.refuses(t, "mkdir", filepath.Join(elsewhere, "new"))
	c.refuses(t, "write", c.File("users"))
	c.refuses(t, "write", c.File("new"))
	c.refuses(t, "mkdir", c.File("stage/new"))
	c.refuses(t, "exec", "/bin/true")
	c.refuses(t, "exec", "/proc/self/exe")
	if landlockOf(t, c) >= process.LandlockTCP {
		c.refuses(t, "connect", foreign.Addr().String())
		c.refuses(t, "bind", "127.0.0.1:0")
	}
	if landlockOf(t, c) >= 6 {
		c.refuses(t, "signal", strconv.Itoa(os.Getpid()))
	}
}

// landlockOf returns the version of Landlock in the log of the server.
func landlockOf(t *testing.T, c *confined) int {
	t.Helper()
	m := regexp.MustCompile(`msg="sandbox entered" landlock=(\d+)`).FindStringSubmatch(c.Log.String())
	if m == nil {
		t.Fatalf("the log has no sandbox:\n%s", c.Log.String())
	}
	n, err := strconv.Atoi(m[1])
	kit.Must(t, err)
	return n
}

// Operations that a server needs while it runs.
func TestSandboxAllows(t *testing.T) {
	c := startConfined(t)
	socket := filepath.Join(kit.OpenDir(t), "mux")
	store, err := net.Listen("unix", socket)
	kit.Must(t, err)
	defer store.Close()
	kit.Must(t, os.Chmod(socket, 0o666))

	kit.Must(t, c.Submit(t, "alice", "right"))
	for _, file := range []string{"/etc/hosts", "/etc/resolv.conf", "/etc/ssl/certs", "/usr/share/zoneinfo", "/dev/urandom"} {
		if _, err := os.Stat(file); err == nil {
			c.allows(t, "open", file)
		}
	}
	c.allows(t, "write", c.File("stage/new"))
	c.allows(t, "unix", socket)
	c.allows(t, "resolve", "localhost")
}

// Certbot writes new files and replaces the links. The sandbox allows the folder of the
// files.
func TestSandboxAllowsRenewedCertificates(t *testing.T) {
	c := startConfined(t)
	cert, err := filepath.EvalSymlinks(c.File("cert.pem"))
	kit.Must(t, err)
	archive := filepath.Dir(cert)
	apptest.Certify(t, filepath.Join(archive, "cert2.pem"), filepath.Join(archive, "key2.pem"))
	give(t, archive)
	before := len(c.Log.String())
	for _, name := range []string{"cert", "key"} {
		kit.Must(t, os.Symlink(filepath.Join(archive, name+"2.pem"), c.File("new")))
		kit.Must(t, os.Rename(c.File("new"), c.File(name+".pem")))
	}
	c.WaitFor(t, before, `msg="certificate reloaded"`)
	kit.Must(t, c.Submit(t, "alice", "right")) // trusts the new one only
}

// If a link leads out of the folders of the sandbox, the log names the sandbox and not
// the mode of a file that all users may read.
func TestSandboxIsNamedInErrors(t *testing.T) {
	c := startConfined(t)
	elsewhere := kit.OpenDir(t)
	cert, key := filepath.Join(elsewhere, "cert.pem"), filepath.Join(elsewhere, "key.pem")
	apptest.Certify(t, cert, key)
	give(t, elsewhere)
	before := len(c.Log.String())
	kit.Must(t, os.Symlink(cert, c.File("new")))
	kit.Must(t, os.Rename(c.File("new"), c.File("cert.pem")))
	c.WaitFor(t, before, "certificate cannot be reloaded; the old one stays")
	if got := c.Log.String()[before:]; !strings.Contains(got, "but a sandbox does not") {
		t.Errorf("the log does not name the sandbox:\n%s", got)
	}
}

func TestSandboxAllowsARewrittenUserFile(t *testing.T) {
	c := startConfined(t)
	c.User(t, "bob", "bobs") // by renaming
	give(t, c.Dir)
	before := len(c.Log.String())
	// The server checks the file once a second.
	if !kit.Soon(func() bool { return c.Submit(t, "bob", "bobs") == nil }) {
		t.Errorf("bob cannot log in:\n%s", c.Log.String()[before:])
	}
}

func TestReloadWithinTheSandbox(t *testing.T) {
	c := startConfined(t)
	kit.Must(t, os.Rename(c.File("users"), c.File("users2")))
	c.User(t, "bob", "bobs")
	c.configureStaged(t, "[log]\nlevel = \"debug\"\n")
	give(t, c.Dir)
	c.Reload(t, "msg=reloaded")
	kit.Must(t, c.Submit(t, "bob", "bobs"))
}

// A reload reads a lookup table again, also after it was replaced by renaming. A table with an
// error leaves the old configuration in use.
func TestReloadReadsLookupTables(t *testing.T) {
	tables := kit.OpenDir(t)
	table := filepath.Join(tables, "senders")
	replace := func(text string) {
		apptest.WriteFile(t, table+".new", text)
		kit.Must(t, os.Rename(table+".new", table))
		give(t, tables)
	}
	replace("eve@example.org REJECT\n")
	c := startConfined(t, fmt.Sprintf("[policy]\nsender = \"check_sender_access texthash:%s\"\n", table))
	kit.Must(t, c.Submit(t, "alice", "right"))
	replace("example.org REJECT Not today\n")
	kit.Must(t, c.Submit(t, "alice", "right")) // the file is not watched
	c.Reload(t, "msg=reloaded")
	if err := c.Submit(t, "alice", "right"); err == nil || !strings.Contains(err.Error(), "Not today") {
		t.Errorf("after the reload: %v", err)
	}
	replace("example.org OK\nexample.net HOLD\n")
	before := len(c.Log.String())
	c.Reload(t, "reload refused")
	if logged := c.Log.String()[before:]; !strings.Contains(logged, "senders: line 2, key") {
		t.Errorf("the log does not name the line:\n%s", logged)
	}
	if err := c.Submit(t, "alice", "right"); err == nil || !strings.Contains(err.Error(), "Not today") {
		t.Errorf("after the refused reload: %v", err)
	}
}

func TestReloadBeyondTheSandboxIsRefused(t *testing.T) {
	c := startConfined(t)
	elsewhere := kit.OpenDir(t)
	other := apptest.StartMailbox(t, c.File("other"))
	for name, test := range map[string]struct{ old, new, want string }{
		"file":   {c.File("users"), filepath.Join(elsewhere, "users"), "auth.stores[0].path: reading " + elsewhere},
		"folder": {c.File("stage"), elsewhere, "server.stage_dir: writing to " + elsewhere},
		"table":  {"[relay]\n", fmt.Sprintf("[policy]\nsender = \"check_sender_access texthash:%s/senders\"\n[relay]\n", elsewhere), "policy.sender: reading " + elsewhere},
		"port":   {c.Mailbox.URL(), other.URL(), "relay.next_hops: connecting to TCP port"},
	} {
		if name == "port" && landlockOf(t, c) < process.LandlockTCP {
			continue
		}
		t.Run(name, func(t *testing.T) {
			c.configureStaged(t, "")
			apptest.WriteFile(t, c.Config(), strings.Replace(apptest.ReadFile(t, c.Config()), test.old, test.new, 1))
			give(t, c.Dir)
			before := len(c.Log.String())
			c.Reload(t, "reload refused")
			if got := c.Log.String()[before:]; !strings.Contains(got, test.want) {
				t.Errorf("the log lacks %q:\n%s", test.want, got)
			}
			kit.Must(t, c.Submit(t, "alice", "right"))
		})
	}
}

// The files of the state folder can be replaced in the sandbox.
func TestStateIsSavedInTheSandbox(t *testing.T) {
	c := startConfined(t)
	kit.Must(t, c.Submit(t, "alice", "right"))
	c.Stop(t)
	for _, name := range []string{"secret", "known-pairs"} {
		if len(apptest.ReadFile(t, c.File("state/"+name))) == 0 {
			t.Errorf("%s is empty", name)
		}
	}
	if log := c.Log.String(); strings.Contains(log, "state f") {
		t.Errorf("the log has\n%s", log)
	}
}
