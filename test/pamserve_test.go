package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"postern/test/kit"
)

// startWithPAM starts postern-pam as root, with a PAM store without a socket. It sees the
// service file of the test in /etc/pam.d.
func startWithPAM(t *testing.T, service string) *postern {
	t.Helper()
	peer(t, "root", "unshare")
	services := kit.OpenDir(t)
	write(t, filepath.Join(services, "smtp"), service)
	return startPostern(t, posternOptions{
		NextHop:     "smtp://" + startSink(t).Addr,
		Sections:    map[string]string{"server": `user = "nobody"`, "auth": exempt},
		Stores:      "[[auth.stores]]\nkind = \"pam\"\ntimeout = \"20s\"\n",
		Root:        true,
		PAM:         true,
		PAMServices: services,
	})
}

// postern-pam that is started as root starts the helper, which stays root, and then becomes
// the user itself.
func TestServeStartsPAMHelper(t *testing.T) {
	t.Parallel()
	note := filepath.Join(kit.OpenDir(t), "note")
	p := startWithPAM(t, "auth optional pam_exec.so quiet /bin/sh "+note+"\n"+shippedService(t, "smtp"))
	write(t, note, "grep ^Uid: /proc/$PPID/status >>"+note+".uid\n")
	helper := p.pamHelper(t)
	network := map[string]string{"Uid:": "65534 65534 65534 65534", "Gid:": "65534 65534 65534 65534", "CapPrm:": "0000000000000000", "CapEff:": "0000000000000000"}
	wantFields(t, statusOf(p.cmd.Process.Pid), network)
	wantFields(t, statusOf(helper), map[string]string{"Uid:": "0 0 0 0"})

	user, closed := newUser(t, "sesame"), newUser(t, "sesame", "chage -E 2020-01-01")
	p.wantLogin(t, loopbackClient(1), user, "sesame", 235)
	p.wantLogin(t, loopbackClient(2), user, "wrong", 535)
	p.wantLogin(t, loopbackClient(3), closed, "sesame", 535)
	p.wantLogin(t, loopbackClient(4), "no-such-user", "sesame", 535)
	if text, err := os.ReadFile(note + ".uid"); err != nil || !strings.HasPrefix(string(text), "Uid:\t0\t0\t0\t0\n") {
		t.Errorf("the modules run as %q, %v", text, err)
	}
	status, output := p.authTest(t, user, "sesame")
	if status != 0 || !strings.Contains(output, "store pam was asked for") {
		t.Errorf("auth test: status %d\n%s", status, output)
	}
	p.signal(t, syscall.SIGHUP)
	kit.Eventually(t, "the reload", func() bool { return len(p.logged("msg=reloaded")) > 0 })
	p.wantLogin(t, loopbackClient(5), user, "sesame", 235)
	if got := p.pamHelper(t); got != helper {
		t.Error("the reload started another helper")
	}

	kit.Must(t, syscall.Kill(helper, syscall.SIGKILL))
	kit.Eventually(t, "the log line about the end of the helper", func() bool { return len(p.logged("level=ERROR", "PAM helper has ended")) > 0 })
	p.wantLogin(t, loopbackClient(6), user, "sesame", 454)
	p.wantLogin(t, loopbackClient(7), user, "wrong", 454)
}

// The helper and the processes of its modules end with postern.
func TestPAMHelperEndsWithServe(t *testing.T) {
	t.Parallel()
	mark := strconv.Itoa(200000 + os.Getpid())
	p := startWithPAM(t, "auth required pam_exec.so quiet /bin/sleep "+mark+"\naccount required pam_permit.so\n")
	helper := p.pamHelper(t)
	c, err := p.connect(startTLS, nil)
	kit.Must(t, err)
	defer c.Close()
	kit.Must(t, c.Text.PrintfLine("AUTH PLAIN %s", kit.Plain("alice", "sesame")))
	kit.Eventually(t, "a hanging module", func() bool { return running("sleep", mark) == 1 })
	p.kill(t)
	kit.Eventually(t, "the end of the helper", func() bool {
		return running("sleep", mark) == 0 && syscall.Kill(helper, 0) == syscall.ESRCH
	})
}

// pamHelper returns the process id of the helper that postern has started.
func (p *postern) pamHelper(t *testing.T) int {
	t.Helper()
	parent := fmt.Sprintf("PPid:\t%d\n", p.cmd.Process.Pid)
	files, _ := filepath.Glob("/proc/[0-9]*/status")
	for _, file := range files {
		status, _ := os.ReadFile(file)
		args, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
		if strings.Contains(string(status), parent) && strings.Contains(string(args), "pam-helper\x00--inherited") {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			return pid
		}
	}
	t.Fatal("no PAM helper")
	return 0
}

func statusOf(pid int) string { return fmt.Sprintf("/proc/%d/status", pid) }

// Without PAM in the program, or without root, the server does not start, and the error
// has the next step.
func TestServeWithoutPAM(t *testing.T) {
	t.Parallel()
	opts := posternOptions{NextHop: "smtp://127.0.0.1:1", Stores: "[[auth.stores]]\nkind = \"pam\"\n"}
	newPostern(t, opts).wantRefusal(t, "auth.stores.socket", "postern-pam")
	out, err := newPostern(t, opts).command(t, "pam-helper").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "postern-pam") {
		t.Errorf("pam-helper: %v\n%s", err, out)
	}
	opts.PAM = true
	newPostern(t, opts).wantRefusal(t, "server.user", "pam-helper", "socket =")
}
