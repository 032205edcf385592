package main

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
	"postern/cmd/postern/internal/config"
	"postern/cmd/postern/internal/process"
	"postern/test/kit"
)

// A confined server is one in a process of its own, in its sandbox. It tries out
// on demand what it can still do.
type confined struct {
	*serving
	in  io.WriteCloser
	out *bufio.Scanner
}

// startConfined starts a server whose certificate is laid out as certbot does
// it: a link in one folder, the files in another.
func startConfined(t *testing.T) *confined {
	t.Helper()
	c := &confined{serving: newServingIn(t, kit.OpenDir(t))}
	archive := kit.OpenDir(t)
	for _, name := range []string{"cert", "key"} {
		link := c.file(name + ".pem")
		must(t, os.Remove(link))
		must(t, os.Symlink(filepath.Join(archive, name+"1.pem"), link))
	}
	certify(t, filepath.Join(archive, "cert1.pem"), filepath.Join(archive, "key1.pem"))
	must(t, os.Mkdir(c.file("stage"), 0o700))
	c.configureStaged(t, "")
	give(t, c.dir, archive)

	cmd := kit.Subprocess("confined", "POSTERN_TEST_FILE="+c.config())
	cmd.Stderr = &c.log
	var err error
	c.in, err = cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	c.out = bufio.NewScanner(out)
	must(t, cmd.Start())
	pass := make(chan struct{})
	go func() {
		defer close(pass)
		for s := range c.signals {
			_ = cmd.Process.Signal(s) // of one that has ended: nobody is left to tell
		}
	}()
	t.Cleanup(func() {
		c.stop(t)
		close(c.signals)
		<-pass
	})
	ready := c.out.Scan()
	go func() {
		c.ended <- cmd.Wait()
		close(c.ended)
	}()
	if !ready {
		t.Fatalf("the server did not start:\n%s", c.log.String())
	}
	if strings.Contains(c.log.String(), "this kernel has no Landlock") {
		t.Skip("this kernel has no Landlock (landlock_create_ruleset, /sys/kernel/security/lsm): nothing confines the server")
	}
	return c
}

// configureStaged keeps staged messages out of the folder where everybody's
// files are.
func (c *confined) configureStaged(t *testing.T, more string) {
	t.Helper()
	c.configure(t, more)
	text := readFile(t, c.config())
	writeFile(t, c.config(), strings.Replace(text, "[server]\n", fmt.Sprintf("[server]\nstage_dir = %q\n", c.file("stage")), 1))
}

// give hands folders to the user that the server becomes.
func give(t *testing.T, folders ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	nobody, err := process.LookupAccount("nobody")
	must(t, err)
	for _, folder := range folders {
		must(t, filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
			return errors.Join(err, os.Lchown(path, nobody.UID, nobody.GID))
		}))
	}
}

// try returns what came of an attempt inside the sandbox: "ok", or the error.
func (c *confined) try(t *testing.T, what, on string) string {
	t.Helper()
	if _, err := fmt.Fprintln(c.in, what, on); err != nil {
		t.Fatal(err)
	}
	if !c.out.Scan() {
		t.Fatalf("no answer to %s %s:\n%s", what, on, c.log.String())
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

// sceneConfined serves, and does what it is told on its standard input.
func sceneConfined() int {
	file := os.Getenv("POSTERN_TEST_FILE")
	signals := process.CatchSignals()
	d, err := app.NewDaemon(func() (*config.Config, error) { return config.Load(file) }, os.Stderr)
	if err != nil {
		return complain(err)
	}
	defer d.Close()
	d.File = file
	var become *process.Account
	if os.Geteuid() == 0 {
		if become, err = process.LookupAccount("nobody"); err != nil {
			return complain(err)
		}
	}
	if err := d.Start(become); err != nil {
		return complain(err)
	}
	go obey(os.Stdin, os.Stdout)
	if err := d.Run(context.Background(), signals); err != nil {
		return complain(err)
	}
	return process.ExitOK
}

func complain(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return process.ExitFailure
}

func obey(in io.Reader, out io.Writer) {
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
		config.SetMultipathTCP(false) // which Landlock does not know
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

// What an attacker could want, if he had taken over the process.
func TestSandboxRefuses(t *testing.T) {
	c := startConfined(t)
	elsewhere := kit.OpenDir(t)
	shadow := filepath.Join(elsewhere, "shadow")
	must(t, os.WriteFile(shadow, []byte("root:$6$:::::::\n"), 0o644)) // a copy that everybody may read
	must(t, os.Chmod(elsewhere, 0o777))
	foreign, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer foreign.Close()

	c.refuses(t, "open", "/etc/shadow")
	c.refuses(t, "open", shadow)
	c.refuses(t, "list", elsewhere)
	c.refuses(t, "list", "/home")
	c.refuses(t, "open", "/proc/1/cmdline")
	c.refuses(t, "write", filepath.Join(elsewhere, "new"))
	c.refuses(t, "mkdir", filepath.Join(elsewhere, "new"))
	c.refuses(t, "write", c.file("users"))
	c.refuses(t, "write", c.file("new"))
	c.refuses(t, "mkdir", c.file("stage/new"))
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

// landlockOf is the version of Landlock that the server reports.
func landlockOf(t *testing.T, c *confined) int {
	t.Helper()
	m := regexp.MustCompile(`msg="sandbox entered" landlock=(\d+)`).FindStringSubmatch(c.log.String())
	if m == nil {
		t.Fatalf("the log does not tell of the sandbox:\n%s", c.log.String())
	}
	n, err := strconv.Atoi(m[1])
	must(t, err)
	return n
}

// What a server needs while it runs.
func TestSandboxAllows(t *testing.T) {
	c := startConfined(t)
	socket := filepath.Join(kit.OpenDir(t), "mux")
	store, err := net.Listen("unix", socket)
	must(t, err)
	defer store.Close()
	must(t, os.Chmod(socket, 0o666))

	must(t, c.submit(t, "alice", "right"))
	for _, file := range []string{"/etc/hosts", "/etc/resolv.conf", "/etc/ssl/certs", "/usr/share/zoneinfo", "/dev/urandom"} {
		if _, err := os.Stat(file); err == nil {
			c.allows(t, "open", file)
		}
	}
	c.allows(t, "write", c.file("stage/new"))
	c.allows(t, "unix", socket)
	c.allows(t, "resolve", "localhost")
}

// Certbot writes new files and swaps the links; the folder of the files was
// allowed, not the files.
func TestSandboxLetsCertificatesBeRenewed(t *testing.T) {
	c := startConfined(t)
	cert, err := filepath.EvalSymlinks(c.file("cert.pem"))
	must(t, err)
	archive := filepath.Dir(cert)
	certify(t, filepath.Join(archive, "cert2.pem"), filepath.Join(archive, "key2.pem"))
	give(t, archive)
	before := len(c.log.String())
	for _, name := range []string{"cert", "key"} {
		must(t, os.Symlink(filepath.Join(archive, name+"2.pem"), c.file("new")))
		must(t, os.Rename(c.file("new"), c.file(name+".pem")))
	}
	c.waitFor(t, before, `msg="certificate reloaded"`)
	must(t, c.submit(t, "alice", "right")) // who trusts the new one only
}

// A link that leads out of what was allowed at start is the reason that the log
// gives, not the mode of a file that everybody may read.
func TestSandboxIsNamedWhereItRefuses(t *testing.T) {
	c := startConfined(t)
	elsewhere := kit.OpenDir(t)
	cert, key := filepath.Join(elsewhere, "cert.pem"), filepath.Join(elsewhere, "key.pem")
	certify(t, cert, key)
	give(t, elsewhere)
	before := len(c.log.String())
	must(t, os.Symlink(cert, c.file("new")))
	must(t, os.Rename(c.file("new"), c.file("cert.pem")))
	c.waitFor(t, before, "certificate cannot be reloaded; the old one stays")
	if said := c.log.String()[before:]; !strings.Contains(said, "but a sandbox does not") {
		t.Errorf("the log does not name the sandbox:\n%s", said)
	}
}

func TestSandboxLetsTheUserFileBeRewritten(t *testing.T) {
	c := startConfined(t)
	c.user(t, "bob", "bobs") // by renaming
	give(t, c.dir)
	before := len(c.log.String())
	// The file is looked at once a second.
	if !kit.Soon(func() bool { return c.submit(t, "bob", "bobs") == nil }) {
		t.Errorf("bob cannot log in:\n%s", c.log.String()[before:])
	}
}

func TestReloadWithinTheSandbox(t *testing.T) {
	c := startConfined(t)
	must(t, os.Rename(c.file("users"), c.file("users2")))
	c.user(t, "bob", "bobs")
	c.configureStaged(t, "[log]\nlevel = \"debug\"\n")
	give(t, c.dir)
	c.reload(t, "msg=reloaded")
	must(t, c.submit(t, "bob", "bobs"))
}

func TestReloadBeyondTheSandboxIsRefused(t *testing.T) {
	c := startConfined(t)
	elsewhere := kit.OpenDir(t)
	other := startMailbox(t, c.file("other"))
	for name, test := range map[string]struct{ old, new, says string }{
		"file":   {c.file("users"), filepath.Join(elsewhere, "users"), "auth.stores[0].path: reading " + elsewhere},
		"folder": {c.file("stage"), elsewhere, "server.stage_dir: writing to " + elsewhere},
		"port":   {c.mailbox.URL(), other.URL(), "relay.next_hops: connecting to TCP port"},
	} {
		if name == "port" && landlockOf(t, c) < process.LandlockTCP {
			continue
		}
		t.Run(name, func(t *testing.T) {
			c.configureStaged(t, "")
			writeFile(t, c.config(), strings.Replace(readFile(t, c.config()), test.old, test.new, 1))
			give(t, c.dir)
			before := len(c.log.String())
			c.reload(t, "reload refused")
			if said := c.log.String()[before:]; !strings.Contains(said, test.says) {
				t.Errorf("the log does not say %q:\n%s", test.says, said)
			}
			must(t, c.submit(t, "alice", "right"))
		})
	}
}
