package test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A postfix is a private instance: configuration, queue and data in a folder
// of its own, everything relayed to a sink. One may come in by a port, with or
// without STARTTLS, by another one with TLS from the first byte, and by a socket.
type postfix struct {
	Addr   string
	URL    string // of Addr as a next hop
	CAFile string // whoever signed its certificate
	tls    string
	dir    string
	conf   string
}

const masterCf = `
%[1]s      inet  n - n - - smtpd
%[2]s      inet  n - n - - smtpd -o smtpd_tls_wrappermode=yes
postern    unix  n - n - - smtpd
cleanup    unix  n - n - 0 cleanup
qmgr       unix  n - n 300 1 qmgr
rewrite    unix  - - n - - trivial-rewrite
bounce     unix  - - n - 0 bounce
defer      unix  - - n - 0 bounce
trace      unix  - - n - 0 bounce
verify     unix  - - n - 1 verify
smtp       unix  - - n - - smtp
error      unix  - - n - - error
retry      unix  - - n - - error
proxymap   unix  - - n - - proxymap
tlsmgr     unix  - - n 1000? 1 tlsmgr
anvil      unix  - - n - 1 anvil
scache     unix  - - n - 1 scache
postlog    unix-dgram n - n - 1 postlogd
`

// The defaults of Postfix stay as they are, its error counting included, but
// for where things are, and for what its own SMTP client would do to the
// bytes on their way to the sink.
const mainCf = `
compatibility_level = 3.6
queue_directory = %[1]s/spool
data_directory = %[1]s/data
maillog_file = %[1]s/maillog
maillog_file_prefixes = %[1]s
myhostname = mx.example.net
mydestination =
local_recipient_maps =
alias_maps =
alias_database =
mynetworks = 127.0.0.0/8
inet_interfaces = loopback-only
inet_protocols = ipv4
relayhost = [127.0.0.1]:%[2]d
smtp_line_length_limit = 0
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_tls_security_level = may
smtpd_tls_chain_files = %[1]s/key.pem, %[1]s/cert.pem
%[3]s
`

// startPostfix starts an instance that relays to s. Each extra is a line of
// main.cf.
func startPostfix(t *testing.T, s *sink, extra ...string) *postfix {
	t.Helper()
	peer(t, "root", "postfix")
	addr := loopback(freePort(t))
	p := &postfix{Addr: addr, URL: "smtp://" + addr, tls: loopback(freePort(t)), dir: postfixFolder(t)}
	ca := newCA(t, p.dir)
	ca.issue(t, 1, filepath.Join(p.dir, "cert.pem"), filepath.Join(p.dir, "key.pem"))
	p.CAFile, p.conf = ca.File, filepath.Join(p.dir, "etc")
	write(t, filepath.Join(p.conf, "main.cf"), fmt.Sprintf(mainCf, p.dir, s.port, strings.Join(extra, "\n")))
	write(t, filepath.Join(p.conf, "master.cf"), fmt.Sprintf(masterCf, addr, p.tls))
	p.guard(t)
	p.start(t)
	return p
}

// postfixFolder makes what Postfix wants to find. It is outside t.TempDir,
// since the user postfix has to get there.
func postfixFolder(t *testing.T) string {
	t.Helper()
	owner, err := user.Lookup("postfix")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(owner.Uid)
	dir := openFolder(t)
	for _, sub := range []string{"etc", "spool", "data"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(filepath.Join(dir, "data"), uid, -1); err != nil {
		t.Fatal(err)
	}
	return dir
}

// guard starts a process that stops the instance when the test is over,
// however it ends: its standard input closes with this process.
func (p *postfix) guard(t *testing.T) {
	t.Helper()
	cmd := exec.Command("sh", "-c", `read -r _; exec postfix -c "$0" abort`, p.conf)
	hold, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		hold.Close()
		_ = cmd.Wait() // an instance that is stopped already is no error
		if t.Failed() {
			t.Logf("log of Postfix:\n%s", p.log())
		}
	})
}

func (p *postfix) start(t *testing.T) {
	t.Helper()
	p.control(t, "start")
	eventually(t, 20*time.Second, "Postfix at "+p.Addr, func() bool { return listening(p.Addr) })
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

// dial is for asking Postfix without postern in between.
func (p *postfix) dial(t *testing.T) *submitter {
	t.Helper()
	conn, err := net.DialTimeout("tcp", p.Addr, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	c := newSubmitter(conn)
	t.Cleanup(c.close)
	return c
}

func (p *postfix) log() string {
	text, _ := os.ReadFile(filepath.Join(p.dir, "maillog"))
	return string(text)
}

// daemons returns the process ids of the instance's children of that name.
func (p *postfix) daemons(t *testing.T, name string) []int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(p.dir, "spool/pid/master.pid"))
	if err != nil {
		t.Fatal(err)
	}
	master := strings.TrimSpace(string(text))
	path := filepath.Join("/proc", master, "task", master, "children")
	children, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var found []int
	for _, child := range strings.Fields(string(children)) {
		comm, _ := os.ReadFile(filepath.Join("/proc", child, "comm"))
		if pid, _ := strconv.Atoi(child); string(bytes.TrimSpace(comm)) == name {
			found = append(found, pid)
		}
	}
	return found
}

// openFolder is a temporary folder that other users can reach.
func openFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "postern-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// socket is where smtpd listens in the file system, opened to all.
func (p *postfix) socket(t *testing.T) string {
	t.Helper()
	folder := filepath.Join(p.dir, "spool/public")
	if err := os.Chmod(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(folder, "postern")
}
