package test

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"postern/test/kit"
	instance "postern/test/postfix"
)

// A postfix is a private instance of Postfix: configuration, queue and data are in a
// temporary folder, and all messages are relayed to a sink. It listens on a port with
// STARTTLS, on one with implicit TLS, and on a socket.
type postfix struct {
	Addr   string
	URL    string // of Addr as a next hop
	CAFile string // the CA that signed its certificate
	tls    string
	dir    string
	conf   string
}

// settings returns the lines of main.cf. The error limits of Postfix are its defaults.
func (p *postfix) settings(extra []string) []string {
	return append([]string{
		"myhostname = mx.example.net",
		"mynetworks = 127.0.0.0/8",
		"smtp_line_length_limit = 0", // its SMTP client does not change the bytes
		"smtpd_relay_restrictions = permit_mynetworks, reject",
		"smtpd_tls_security_level = may",
		"smtpd_tls_chain_files = " + p.dir + "/key.pem, " + p.dir + "/cert.pem",
	}, extra...)
}

// startPostfix starts an instance that relays to s. Each extra is a line of main.cf.
func startPostfix(t *testing.T, s *sink, extra ...string) *postfix {
	t.Helper()
	return startPostfixTo(t, s.port, extra...)
}

// startPostfixTo starts an instance that relays to a port on loopback.
func startPostfixTo(t *testing.T, port int, extra ...string) *postfix {
	t.Helper()
	p := newPostfix(t, port, extra...)
	p.start(t)
	return p
}

// newPostfix writes the files of an instance and does not start it.
func newPostfix(t *testing.T, port int, extra ...string) *postfix {
	t.Helper()
	peer(t, "root", "postfix")
	addr := kit.Addr(t)
	p := &postfix{Addr: addr, URL: "smtp://" + addr, tls: kit.Addr(t), dir: kit.OpenDir(t)}
	ca := kit.NewCA(t, p.dir)
	ca.Issue(t, 1, filepath.Join(p.dir, "cert.pem"), filepath.Join(p.dir, "key.pem"))
	files := instance.Instance{Dir: p.dir, NextHop: port, Settings: p.settings(extra), Services: []string{
		addr + " inet n - n - - smtpd",
		p.tls + " inet n - n - - smtpd -o smtpd_tls_wrappermode=yes",
		"postern unix n - n - - smtpd",
	}}
	kit.Must(t, files.Write())
	p.CAFile, p.conf = ca.File, files.Conf()
	p.guard(t)
	return p
}

// guard starts a process that stops the instance at the end of the test, even if the test
// is killed: its standard input is closed when this process ends.
func (p *postfix) guard(t *testing.T) {
	t.Helper()
	cmd := exec.Command("sh", "-c", `read -r _; exec postfix -c "$0" abort`, p.conf)
	hold, err := cmd.StdinPipe()
	kit.Must(t, err)
	kit.Must(t, cmd.Start())
	t.Cleanup(func() {
		hold.Close()
		_ = cmd.Wait() // fails if the instance is already stopped
		if t.Failed() {
			t.Logf("log of Postfix:\n%s", lastOf(p.log()))
		}
	})
}

func (p *postfix) start(t *testing.T) {
	t.Helper()
	p.control(t, "start")
	kit.Eventually(t, "Postfix at "+p.Addr, func() bool { return listening(p.Addr) })
}

func (p *postfix) stop(t *testing.T) {
	t.Helper()
	p.control(t, "stop")
}

func (p *postfix) control(t *testing.T, verb string) {
	t.Helper()
	out, err := exec.Command("postfix", "-c", p.conf, verb).CombinedOutput()
	if err != nil {
		t.Fatalf("postfix %s: %v\n%s\n%s", verb, err, out, p.log())
	}
}

// dial connects to Postfix directly.
func (p *postfix) dial(t *testing.T) *submitter {
	t.Helper()
	conn, err := net.DialTimeout("tcp", p.Addr, kit.Patience)
	kit.Must(t, err)
	c := newSubmitter(conn)
	t.Cleanup(c.Close)
	return c
}

func (p *postfix) log() string {
	text, _ := os.ReadFile(filepath.Join(p.dir, "maillog"))
	return string(text)
}

// daemons returns the process ids of the children of the instance with this name.
func (p *postfix) daemons(t *testing.T, name string) []int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(p.dir, "spool/pid/master.pid"))
	kit.Must(t, err)
	master := strings.TrimSpace(string(text))
	path := filepath.Join("/proc", master, "task", master, "children")
	children, err := os.ReadFile(path)
	kit.Must(t, err)
	var found []int
	for _, child := range strings.Fields(string(children)) {
		comm, _ := os.ReadFile(filepath.Join("/proc", child, "comm"))
		if pid, _ := strconv.Atoi(child); string(bytes.TrimSpace(comm)) == name {
			found = append(found, pid)
		}
	}
	return found
}

func write(t *testing.T, path, text string) {
	t.Helper()
	kit.Must(t, os.WriteFile(path, []byte(text), 0o644))
}

// socket returns the path of smtpd's socket and opens it to all users.
func (p *postfix) socket(t *testing.T) string {
	t.Helper()
	folder := filepath.Join(p.dir, "spool/public")
	kit.Must(t, os.Chmod(folder, 0o755))
	return filepath.Join(folder, "postern")
}
