package test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern/test/kit"
)

// A tlsMode is one of the two ports, in the words of the configuration.
type tlsMode string

const (
	startTLS    tlsMode = "starttls"
	implicitTLS tlsMode = "tls"
)

const (
	password = kit.Password
	hash     = kit.Hash
	users    = "alice:" + hash + "\nbob:" + hash + "\ncarol:" + hash + "\n"
	nobody   = kit.Nobody
)

// posternOptions says in what a test's postern differs from the default one.
type posternOptions struct {
	NextHop string

	// Sections are lines to add to sections of the configuration.
	Sections map[string]string

	// Stores are tables [[auth.stores]], instead of the file of users.
	Stores string

	// Plain is postern without the race detector, to be measured.
	Plain bool

	// PAM is the build with libpam.
	PAM bool

	// PAMServices is a folder that it sees as /etc/pam.d.
	PAMServices string

	// Root starts it as root; [server] has to name whom it becomes.
	Root bool

	// Proxied says that 127.0.0.1 is a trusted proxy, which has to introduce
	// each connection.
	Proxied bool
}

// A postern is the server under test, running in a folder of its own.
type postern struct {
	dir   string
	ca    *kit.CA
	ports map[tlsMode]int
	opts  posternOptions
	cmd   *exec.Cmd
	ended chan error
}

// startPostern starts the server and waits until both ports answer. At the
// end of the test it has to stop cleanly, and to have logged neither a panic
// nor a data race.
func startPostern(t *testing.T, opts posternOptions) *postern {
	t.Helper()
	p := newPostern(t, opts)
	p.run(t)
	return p
}

// newPostern writes everything that the server needs, and does not start it.
func newPostern(t *testing.T, opts posternOptions) *postern {
	t.Helper()
	p := &postern{
		dir:   openFolder(t),
		ports: map[tlsMode]int{startTLS: kit.Port(t), implicitTLS: kit.Port(t)},
		opts:  opts,
		ended: make(chan error, 1),
	}
	p.ca = kit.NewCA(t, p.dir)
	p.newCertificate(t, 100)
	write(t, p.file("users"), users)
	p.configure(t, "")
	p.own(t)
	return p
}

func (p *postern) file(name string) string { return filepath.Join(p.dir, name) }

func (p *postern) addr(mode tlsMode) string { return loopback(p.ports[mode]) }

// newCertificate writes a pair; only its serial number tells it from others.
func (p *postern) newCertificate(t *testing.T, serial int64) {
	t.Helper()
	p.ca.Issue(t, serial, p.file("cert.pem"), p.file("key.pem"))
	p.own(t)
}

// configure writes the configuration file. broken goes in front of it.
func (p *postern) configure(t *testing.T, broken string) {
	t.Helper()
	var b strings.Builder
	b.WriteString(broken)
	for _, mode := range []tlsMode{startTLS, implicitTLS} {
		fmt.Fprintf(&b, "[[listener]]\nname = %q\naddress = [%q]\nmode = %[1]q\n", mode, p.addr(mode))
	}
	sections := map[string]string{
		"server": `hostname = "postern.example.org"`,
		"tls":    fmt.Sprintf("certificates = [{ cert = %q, key = %q }]", p.file("cert.pem"), p.file("key.pem")),
		"auth":   fmt.Sprintf("stores = [{ kind = \"userfile\", path = %q }]", p.file("users")),
		"relay":  fmt.Sprintf("next_hops = [%q]", p.opts.NextHop),
	}
	if p.opts.Proxied {
		sections["server"] += "\nproxy_trusted = [\"127.0.0.1/32\"]"
	}
	if p.opts.Stores != "" {
		sections["auth"] = ""
	}
	for name, lines := range p.opts.Sections {
		sections[name] += "\n" + lines
	}
	sections["auth"] += "\n" + p.opts.Stores
	for name, lines := range sections {
		fmt.Fprintf(&b, "[%s]\n%s\n", name, lines)
	}
	write(t, p.file("config.toml"), b.String())
}

// own hands the folder to the user that postern will be.
func (p *postern) own(t *testing.T) {
	t.Helper()
	files, err := filepath.Glob(p.file("*"))
	if err != nil {
		t.Fatal(err)
	}
	kit.Own(t, files...)
}

func (p *postern) run(t *testing.T) {
	t.Helper()
	p.cmd = p.command(t, "serve", "--config", p.file("config.toml"))
	log, err := os.OpenFile(p.file("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.finish(t) })
	go func() { p.ended <- p.cmd.Wait() }()
	for _, mode := range []tlsMode{startTLS, implicitTLS} {
		kit.Eventually(t, "postern at "+p.addr(mode), func() bool { return p.answers(t, mode) })
	}
}

// command is postern with a subcommand, as the user who owns its files.
func (p *postern) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	file, err := p.build()
	if err != nil {
		t.Fatal(err)
	}
	cmd := kit.Command(file, args...)
	if p.opts.PAMServices != "" {
		const script = `mount --bind "$1" /etc/pam.d && shift && exec "$@"`
		cmd = kit.Command("unshare", append([]string{"--mount", "sh", "-c", script, "sh", p.opts.PAMServices, file}, args...)...)
	}
	if p.opts.Root {
		cmd.SysProcAttr = nil
	}
	cmd.Dir = p.dir
	return cmd
}

func (p *postern) build() (string, error) {
	switch {
	case p.opts.PAM:
		return pamProgram()
	case p.opts.Plain:
		return plainProgram()
	}
	return program()
}

// answers says whether a client could get as far as EHLO inside TLS. A server
// that has ended never will.
func (p *postern) answers(t *testing.T, mode tlsMode) bool {
	select {
	case err := <-p.ended:
		p.ended <- err
		t.Fatalf("postern has ended: %v\n%s", err, p.log())
	default:
	}
	c, err := p.connect(mode, nil)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// finish stops what still runs and looks at how it ended.
func (p *postern) finish(t *testing.T) {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-p.ended:
		if err != nil {
			t.Errorf("postern ended with %v", err)
		}
	case <-time.After(time.Minute):
		_ = p.cmd.Process.Kill()
		t.Errorf("postern did not stop: %v", <-p.ended)
	}
	kit.InspectLog(t, p.log())
	if t.Failed() {
		t.Logf("log of postern:\n%s", lastOf(p.log()))
	}
}

// lastOf leaves out what nobody would read.
func lastOf(log string) string {
	const most = 32 << 10
	if len(log) <= most {
		return log
	}
	return fmt.Sprintf("(%d bytes before)\n%s", len(log)-most, log[len(log)-most:])
}

// kill ends the server as a power cut would.
func (p *postern) kill(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.ended
	p.ended <- nil // finish has nothing to object to
}

func (p *postern) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

func (p *postern) log() string {
	text, _ := os.ReadFile(p.file("log"))
	return string(text)
}

// logLines returns the lines that contain all of words.
func (p *postern) logLines(words ...string) []string {
	var found []string
	lines := bufio.NewScanner(strings.NewReader(p.log()))
	for lines.Scan() {
		if containsAll(lines.Text(), words) {
			found = append(found, lines.Text())
		}
	}
	return found
}

func containsAll(s string, words []string) bool {
	for _, word := range words {
		if !strings.Contains(s, word) {
			return false
		}
	}
	return true
}

func (p *postern) tlsConfig() *tls.Config {
	return &tls.Config{RootCAs: p.ca.Pool, ServerName: "localhost"}
}
