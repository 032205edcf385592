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

// A tlsMode is one of the two ports, as the configuration names it.
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

// posternOptions are the differences from the default postern of the tests.
type posternOptions struct {
	NextHop string

	// Sections are lines to add to sections of the configuration.
	Sections map[string]string

	// Stores are tables [[auth.stores]] instead of the user file.
	Stores string

	// Plain is postern without the race detector, for measurements.
	Plain bool

	// PAM is the build with libpam.
	PAM bool

	// PAMServices is a folder that postern sees as /etc/pam.d.
	PAMServices string

	// Root starts postern as root; [server] must name the user that it becomes.
	Root bool

	// Proxied makes 127.0.0.1 a trusted proxy, which must send a PROXY header on each
	// connection.
	Proxied bool
}

// A postern is the server under test, with its own folder.
type postern struct {
	dir   string
	ca    *kit.CA
	ports map[tlsMode]int
	opts  posternOptions
	cmd   *exec.Cmd
	ended chan error
}

// startPostern starts the server and waits until both ports accept clients. At the end of
// the test the server must end with status 0, and must not have logged a panic or a data
// race.
func startPostern(t *testing.T, opts posternOptions) *postern {
	t.Helper()
	p := newPostern(t, opts)
	p.run(t)
	return p
}

// newPostern writes all files of the server and does not start it.
func newPostern(t *testing.T, opts posternOptions) *postern {
	t.Helper()
	p := &postern{
		dir:   kit.OpenDir(t),
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

// newCertificate writes a certificate and its key. Certificates differ in the serial
// number.
func (p *postern) newCertificate(t *testing.T, serial int64) {
	t.Helper()
	p.ca.Issue(t, serial, p.file("cert.pem"), p.file("key.pem"))
	p.own(t)
}

// configure writes the configuration file, with broken as its first lines.
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

// own makes the user of postern the owner of the files.
func (p *postern) own(t *testing.T) {
	t.Helper()
	files, err := filepath.Glob(p.file("*"))
	kit.Must(t, err)
	kit.Own(t, files...)
}

func (p *postern) run(t *testing.T) {
	t.Helper()
	p.cmd = p.command(t, "serve", "--config", p.file("config.toml"))
	log, err := os.OpenFile(p.file("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	kit.Must(t, err)
	defer log.Close()
	p.cmd.Stdout, p.cmd.Stderr = log, log
	kit.Must(t, p.cmd.Start())
	t.Cleanup(func() { p.finish(t) })
	go func() { p.ended <- p.cmd.Wait() }()
	for _, mode := range []tlsMode{startTLS, implicitTLS} {
		kit.Eventually(t, "postern at "+p.addr(mode), func() bool { return p.answers(t, mode) })
	}
}

// command returns a subcommand of postern, as the user that owns its files.
func (p *postern) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	file, err := p.build()
	kit.Must(t, err)
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

// answers reports whether a client gets a reply to EHLO inside TLS. It ends the test if the
// server has ended.
func (p *postern) answers(t *testing.T, mode tlsMode) bool {
	select {
	case err := <-p.ended:
		p.ended <- err
		t.Fatalf("postern ended: %v\n%s", err, p.log())
	default:
	}
	c, err := p.connect(mode, nil)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// finish stops the server and checks its status and its log.
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

// lastOf returns the end of a long log.
func lastOf(log string) string {
	const limit = 32 << 10
	if len(log) <= limit {
		return log
	}
	return fmt.Sprintf("(%d bytes before)\n%s", len(log)-limit, log[len(log)-limit:])
}

// kill ends the server by SIGKILL.
func (p *postern) kill(t *testing.T) {
	t.Helper()
	kit.Must(t, p.cmd.Process.Kill())
	<-p.ended
	p.ended <- nil // for finish
}

func (p *postern) signal(t *testing.T, s os.Signal) {
	t.Helper()
	kit.Must(t, p.cmd.Process.Signal(s))
}

func (p *postern) log() string {
	text, _ := os.ReadFile(p.file("log"))
	return string(text)
}

// logged returns the log lines that contain all words.
func (p *postern) logged(words ...string) []string {
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
