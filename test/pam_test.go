package test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"postern/server/auth/pam"
	"postern/test/kit"
)

// pamProgram is the build with libpam.
var pamProgram = kit.Program("postern-pam", "-tags", "pam")

// A pamHelper is "postern pam-helper" with its own PAM service files.
type pamHelper struct {
	dir      string
	services map[string]string
	cmd      *exec.Cmd
	ended    chan error
}

// newPAMHelper writes the service files, in which DIR is the folder of the helper.
func newPAMHelper(t *testing.T, services map[string]string) *pamHelper {
	t.Helper()
	peer(t, "root")
	h := &pamHelper{dir: kit.OpenDir(t), services: services, ended: make(chan error, 1)}
	kit.Must(t, os.Mkdir(h.file("pam.d"), 0o755))
	for name, text := range services {
		write(t, h.file("pam.d/"+name), strings.ReplaceAll(text, "DIR", h.dir))
	}
	return h
}

func startPAMHelper(t *testing.T, services map[string]string, flags ...string) *pamHelper {
	t.Helper()
	h := newPAMHelper(t, services)
	h.start(t, flags...)
	t.Cleanup(func() { h.stop(t) })
	return h
}

func (h *pamHelper) file(name string) string { return filepath.Join(h.dir, name) }

func (h *pamHelper) socket() string { return h.file("mux") }

func (h *pamHelper) start(t *testing.T, flags ...string) {
	t.Helper()
	file, err := pamProgram()
	kit.Must(t, err)
	args := append([]string{"pam-helper", "--socket", h.socket(), "--pam-dir", h.file("pam.d")}, flags...)
	for name := range h.services {
		args = append(args, "--service", name)
	}
	h.cmd = exec.Command(file, args...)
	log, err := os.OpenFile(h.file("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	kit.Must(t, err)
	defer log.Close()
	h.cmd.Stdout, h.cmd.Stderr = log, log
	kit.Must(t, h.cmd.Start())
	go func() { h.ended <- h.cmd.Wait() }()
	kit.Eventually(t, "the PAM helper", func() bool {
		conn, err := net.Dial("unix", h.socket())
		if err != nil {
			return false
		}
		conn.Close()
		return true
	})
}

// stop ends the helper, which must end with status 0, and checks its log.
func (h *pamHelper) stop(t *testing.T) {
	if h.cmd == nil {
		return
	}
	_ = h.cmd.Process.Signal(syscall.SIGTERM)
	if err := <-h.ended; err != nil {
		t.Errorf("the PAM helper ended with %v", err)
	}
	h.cmd = nil
	for _, secret := range []string{"sesame", "panic"} {
		if strings.Contains(h.log(), secret) {
			t.Errorf("the log of the PAM helper has %q", secret)
		}
	}
	if _, err := os.Lstat(h.socket()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket still exists: %v", err)
	}
	if t.Failed() {
		t.Logf("log of the PAM helper:\n%s", h.log())
	}
}

func (h *pamHelper) log() string {
	text, _ := os.ReadFile(h.file("log"))
	return string(text)
}

func (h *pamHelper) store(t *testing.T, service string) *pam.Store {
	t.Helper()
	s, err := pam.New(pam.Config{Service: service, Socket: h.socket()}, nil)
	kit.Must(t, err)
	return s
}

var userNumber atomic.Int32

// newUser creates a user of this machine until the end of the test. Each command changes
// the account; the name of the user is appended to it.
func newUser(t *testing.T, password string, commands ...string) string {
	t.Helper()
	peer(t, "root", "useradd", "chpasswd", "chage", "passwd")
	name := fmt.Sprintf("postern%d-%d", os.Getpid(), userNumber.Add(1))
	onAccounts(t, "", "useradd", "--no-create-home", "--no-user-group", "--home-dir", "/nonexistent", name)
	t.Cleanup(func() { onAccounts(t, "", "userdel", name) })
	setPassword(t, name, password)
	for _, c := range commands {
		args := append(strings.Fields(c), name)
		onAccounts(t, "", args[0], args[1:]...)
	}
	return name
}

func setPassword(t *testing.T, user, password string) {
	t.Helper()
	onAccounts(t, user+":"+password+"\n", "chpasswd")
}

// onAccounts runs a command that locks /etc/passwd. It retries, since parallel tests do
// the same.
func onAccounts(t *testing.T, in, name string, args ...string) {
	t.Helper()
	var out []byte
	var err error
	kit.Soon(func() bool {
		cmd := exec.Command(name, args...)
		cmd.Stdin = strings.NewReader(in)
		out, err = cmd.CombinedOutput()
		return err == nil || !strings.Contains(string(out), "lock")
	})
	if err != nil {
		t.Errorf("%s %s: %v\n%s", name, args, err, out)
	}
}

func shippedService(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../docs/pam", name))
	kit.Must(t, err)
	return string(text)
}

const disabled, expired, later = "account disabled", "password expired", "later"

// Accounts of this machine in every state, with the service files of docs/pam.
func TestPAMUnix(t *testing.T) {
	t.Parallel()
	h := startPAMHelper(t, map[string]string{
		"smtp":    shippedService(t, "smtp"),
		"smtp-us": strings.ReplaceAll(shippedService(t, "smtp-ldap"), "pam_ldap.so", "pam_debug.so auth=authinfo_unavail acct=authinfo_unavail"),
		"closed":  "auth required pam_unix.so\naccount required pam_nologin.so file=DIR/nologin\naccount required pam_unix.so\n",
		"few":     "auth required pam_unix.so\naccount required pam_succeed_if.so quiet user = root\naccount required pam_unix.so\n",
	})
	write(t, h.file("nologin"), "closed for today\n")
	good := newUser(t, "sesame")
	tests := []struct{ service, user, password, want string }{
		{"smtp", good, "sesame", "yes"},
		{"smtp", good, "Sesame", refused},
		{"smtp", good, "wonderland", refused},
		{"smtp", "no-such-user", "sesame", unknown},
		{"smtp", newUser(t, "sesame", "chage -E 2020-01-01"), "sesame", disabled},
		{"smtp", newUser(t, "sesame", "chage -E 2020-01-01"), "wrong", refused},
		{"smtp", newUser(t, "sesame", "chage -d 0"), "sesame", expired},
		{"smtp", newUser(t, "sesame", "chage -d 2020-01-01 -M 1"), "sesame", expired},
		{"smtp", newUser(t, "sesame", "chage -d 2020-01-01 -M 1 -I 1"), "sesame", expired},
		{"smtp", newUser(t, "sesame", "passwd -q -l"), "sesame", refused},
		{"smtp", newUser(t, "sesame", "passwd -q -d"), "sesame", refused},
		{"closed", good, "sesame", disabled},
		{"closed", good, "wrong", refused},
		{"few", good, "sesame", disabled},
		{"smtp-us", good, "sesame", "yes"},
		{"smtp-us", good, "wrong", refused},
		{"smtp-us", "no-such-user", "sesame", later}, // a user of the directory, which is down
	}
	for _, tt := range tests {
		if got := answerOf(t, h.store(t, tt.service), tt.user, tt.password); got != tt.want {
			t.Errorf("%s: %s, %s: %s, want %s", tt.service, tt.user, tt.password, got, tt.want)
		}
	}
	setPassword(t, good, "sesame2")
	for password, want := range map[string]string{"sesame": refused, "sesame2": "yes"} {
		if got := answerOf(t, h.store(t, "smtp"), good, password); got != want {
			t.Errorf("after the change, %s: %s, want %s", password, got, want)
		}
	}
}

// Users in a file that are not users of this machine, and services that give no answer.
func TestPAMServices(t *testing.T) {
	t.Parallel()
	h := startPAMHelper(t, map[string]string{
		"file":   "auth required pam_pwdfile.so pwdfile=DIR/users\naccount required pam_permit.so\n",
		"unfit":  "auth required pam_pwdfile.so pwdfile=DIR/users\naccount required pam_unix.so\n",
		"twice":  "auth optional pam_pwdfile.so pwdfile=/dev/null\nauth required pam_pwdfile.so pwdfile=DIR/users\naccount required pam_permit.so\n",
		"permit": "auth required pam_permit.so\naccount required pam_permit.so\n",
		"root":   "auth sufficient pam_rootok.so\naccount required pam_permit.so\n",
		"down":   "auth required pam_debug.so auth=authinfo_unavail\naccount required pam_permit.so\n",
		"broken": "auth required pam_no_such_module.so\naccount required pam_permit.so\n",
		"empty":  "# nothing\n",
		"slow":   "auth optional pam_faildelay.so delay=300000000\nauth required pam_pwdfile.so pwdfile=DIR/users nodelay\naccount required pam_permit.so\n",
	})
	hashed, err := exec.Command("openssl", "passwd", "-6", "sesame").Output()
	kit.Must(t, err)
	write(t, h.file("users"), "virtual:"+string(hashed))
	for _, tt := range []struct{ service, user, password, want string }{
		{"file", "virtual", "sesame", "yes"},
		{"file", "virtual", "wrong", refused},
		{"file", "nobody", "sesame", unknown},
		{"unfit", "virtual", "sesame", unknown},
		{"twice", "virtual", "sesame", "yes"},
		{"permit", "virtual", "sesame", later},
		{"root", "root", "sesame", later},
		{"down", "virtual", "sesame", later},
		{"broken", "virtual", "sesame", later},
		{"empty", "virtual", "sesame", refused},
		{"slow", "virtual", "wrong", refused}, // at once, not in five minutes
	} {
		got := answerOf(t, h.store(t, tt.service), tt.user, tt.password)
		if got != tt.want && !(tt.user == "nobody" && got == refused) {
			t.Errorf("%s: %s, %s: %s, want %s", tt.service, tt.user, tt.password, got, tt.want)
		}
	}
	for _, name := range hostileNames {
		if got := answerOf(t, h.store(t, "file"), name, "sesame"); got != refused && got != unknown {
			t.Errorf("%.20q: %s", name, got)
		}
	}
}

// The modules get the address of the client, and keep only the capabilities that they need.
func TestPAMItems(t *testing.T) {
	t.Parallel()
	h := startPAMHelper(t, map[string]string{"smtp": "auth optional pam_exec.so quiet /bin/sh DIR/note\nauth required pam_unix.so\naccount required pam_unix.so\n"})
	write(t, h.file("note"), `grep CapBnd /proc/self/status >"`+h.file("caps")+`"; echo "$PAM_USER $PAM_RHOST $PAM_TTY $PAM_RUSER $PAM_SERVICE" >>"`+h.file("seen")+"\"\n")
	user := newUser(t, "sesame")
	if got := answerOf(t, h.store(t, "smtp"), user, "sesame"); got != "yes" {
		t.Fatal(got)
	}
	text, err := os.ReadFile(h.file("seen"))
	if want := fmt.Sprintf("%s 192.0.2.7 postern %[1]s smtp\n", user); err != nil || string(text) != want {
		t.Errorf("%q, %v; want %q", text, err, want)
	}
	text, err = os.ReadFile(h.file("caps"))
	var caps uint64
	if _, scanErr := fmt.Sscanf(string(text), "CapBnd: %x", &caps); err != nil || scanErr != nil || caps&^keptCaps != 0 {
		t.Errorf("the modules have the capabilities %q, %v, %v", text, err, scanErr)
	}
}

// keptCaps are the capabilities in docs/systemd/postern-pam-helper.service: 0 to 7,
// CAP_IPC_LOCK and CAP_AUDIT_WRITE.
const keptCaps = 0xff | 1<<14 | 1<<29

// A module that hangs is killed; other logins work meanwhile.
func TestPAMHangs(t *testing.T) {
	t.Parallel()
	mark := strconv.Itoa(100000 + os.Getpid())
	h := startPAMHelper(t, map[string]string{
		"hangs": "auth required pam_exec.so quiet /bin/sleep " + mark + "\n",
		"smtp":  shippedService(t, "smtp"),
	}, "--timeout", "8s", "--processes", "3")
	user := newUser(t, "sesame")
	hangs, smtp := h.store(t, "hangs"), h.store(t, "smtp")
	answers := make(chan string, 2)
	for range cap(answers) {
		go func() { answers <- answerOf(t, hangs, user, "sesame") }()
	}
	kit.Eventually(t, "two hanging modules", func() bool { return running("sleep", mark) == 2 })
	for range 3 {
		if got := answerOf(t, smtp, user, "sesame"); got != "yes" {
			t.Errorf("meanwhile: %s", got)
		}
	}
	for range cap(answers) {
		if got := <-answers; got != later {
			t.Errorf("hanging: %s", got)
		}
	}
	kit.Eventually(t, "the end of the modules", func() bool { return running("sleep", mark) == 0 })
	if got := answerOf(t, smtp, user, "sesame"); got != "yes" {
		t.Errorf("afterwards: %s", got)
	}

	// 50 abandoned logins leave no process, long before the timeout.
	abandon(t, 50, func(ctx context.Context) error {
		_, err := hangs.VerifyPassword(ctx, remotePeer, user, "sesame")
		return err
	})
	if got := answerOf(t, smtp, user, "sesame"); got != "yes" {
		t.Errorf("after the abandoned logins: %s", got)
	}
	kit.Eventually(t, "the end of the abandoned logins", func() bool { return running("sleep", mark) == 0 })
}

// running counts the processes with this command line.
func running(args ...string) int {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	n := 0
	for _, file := range files {
		text, _ := os.ReadFile(file)
		if strings.HasSuffix(string(text), strings.Join(args, "\x00")+"\x00") {
			n++
		}
	}
	return n
}

// 200 logins at once, and a helper that is killed and started again.
func TestPAMHelperRestart(t *testing.T) {
	t.Parallel()
	h := startPAMHelper(t, map[string]string{"smtp": shippedService(t, "smtp")})
	s, user := h.store(t, "smtp"), newUser(t, "sesame")
	atOnce(t, 200, func(i int) {
		password, want := "sesame", "yes"
		if i%4 == 3 {
			password, want = "wrong", refused
		}
		if got := answerOf(t, s, user, password); got != want {
			t.Errorf("%d of 200: %s, want %s", i, got, want)
		}
	})
	kit.Must(t, h.cmd.Process.Kill())
	<-h.ended
	if got := answerOf(t, s, user, "sesame"); got != later {
		t.Errorf("killed: %s", got)
	}
	h.start(t) // replaces the stale socket
	if got := answerOf(t, s, user, "sesame"); got != "yes" {
		t.Errorf("back: %s", got)
	}
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("back: %v", err)
	}
}

// The client of Cyrus SASL, as users that are allowed and not allowed.
func TestPAMHelperTestsaslauthd(t *testing.T) {
	t.Parallel()
	peer(t, "root", "testsaslauthd")
	h := startPAMHelper(t, map[string]string{"smtp": shippedService(t, "smtp")}, "--allow-user", strconv.Itoa(nobody), "--mode", "0666")
	user := newUser(t, "sesame")
	for _, tt := range []struct {
		uid            uint32
		password, want string
	}{
		{0, "sesame", "OK"},
		{nobody, "sesame", "OK"},
		{nobody, "wrong", "NO"},
		{1, "sesame", "failed"}, // the connection ends without a reply
	} {
		cmd := exec.Command("testsaslauthd", "-f", h.socket(), "-s", "smtp", "-u", user, "-p", tt.password)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: tt.uid, Gid: 1}}
		out, err := cmd.CombinedOutput()
		if !strings.Contains(string(out), tt.want) || (err == nil) != (tt.want == "OK") {
			t.Errorf("as %d, %s: %q, %v; want %s", tt.uid, tt.password, out, err, tt.want)
		}
	}
	if !strings.Contains(h.log(), "--allow-user") {
		t.Error("the log does not name --allow-user for refused clients")
	}
	h.wantMode(t, 0o666)
}

func (h *pamHelper) wantMode(t *testing.T, mode fs.FileMode) {
	t.Helper()
	info, err := os.Lstat(h.socket())
	if err != nil || info.Mode() != fs.ModeSocket|mode {
		t.Errorf("the socket: %v, %v", info, err)
	}
}

// A Postfix whose users log in through Cyrus SASL and the helper instead of saslauthd.
func TestPAMHelperForPostfix(t *testing.T) {
	t.Parallel()
	h := startPAMHelper(t, map[string]string{"smtp": shippedService(t, "smtp")}, "--allow-user", "postfix")
	h.wantMode(t, 0o660)
	user := newUser(t, "sesame")
	p := startPostfix(t, startSink(t),
		"smtpd_sasl_auth_enable = yes",
		"smtpd_sasl_type = cyrus",
		"smtpd_sasl_path = smtpd",
		"max_use = 1", // the smtpd that served the first probe of the port has no smtpd.conf
	)
	sasl := filepath.Join(p.conf, "sasl")
	kit.Must(t, os.Mkdir(sasl, 0o755))
	write(t, filepath.Join(sasl, "smtpd.conf"), "pwcheck_method: saslauthd\nmech_list: PLAIN LOGIN\nsaslauthd_path: "+h.socket()+"\n")
	for _, tt := range []struct {
		password string
		code     int
	}{{"sesame", 235}, {"wrong", 535}, {"sesame", 235}} {
		c := p.dial(t)
		kit.Must(t, c.wantAll("", "EHLO client.example.org"))
		if err := c.want(tt.code, "AUTH PLAIN "+kit.Plain(user, tt.password)); err != nil {
			t.Errorf("%s: %v", tt.password, err)
		}
	}
}
