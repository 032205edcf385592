package test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"postern/test/kit"
)

// systemd opens the ports and passes them on: postern binds none itself.
func TestSocketActivation(t *testing.T) {
	t.Parallel()
	peer(t, "systemd-socket-activate")
	s := startSink(t)
	p := newPostern(t, posternOptions{NextHop: "smtp://" + s.Addr})
	p.activate(t, "starttls:tls")
	r, err := p.mustLogin(t, "alice").submit(letter("activated"), "alice@example.org", "bob@example.net")
	if err := accepted(r, err); err != nil {
		t.Error(err)
	}
	s.wait(t, "<activated@")
	if !p.answers(t, implicitTLS) {
		t.Error("the second socket is not served")
	}
}

// A socket that is for no listener would be left open and unanswered.
func TestSocketForNobody(t *testing.T) {
	t.Parallel()
	peer(t, "systemd-socket-activate")
	p := newPostern(t, posternOptions{NextHop: "smtp://127.0.0.1:1"})
	p.activateOnly(t, "starttls:pop3")
	if c, err := p.connect(startTLS, nil); err == nil {
		c.Close()
		t.Error("it was served")
	}
	select {
	case <-p.ended:
	case <-time.After(kit.Patience):
		_ = p.cmd.Process.Kill()
		t.Fatal("postern did not end")
	}
	if !strings.Contains(p.log(), `systemd passes a socket named "pop3"`) {
		t.Errorf("the log does not tell:\n%s", p.log())
	}
}

// activate is run, with sockets that systemd opens and names.
func (p *postern) activate(t *testing.T, names string) {
	t.Helper()
	p.activateOnly(t, names)
	t.Cleanup(func() { p.finish(t) })
	kit.Eventually(t, "postern behind systemd-socket-activate", func() bool { return p.answers(t, startTLS) })
}

func (p *postern) activateOnly(t *testing.T, names string) {
	t.Helper()
	serve := p.command(t, "serve", "--config", p.file("config.toml"))
	args := []string{"--listen", p.addr(startTLS), "--listen", p.addr(implicitTLS), "--fdname", names,
		"--setenv", "GORACE", serve.Path}
	p.cmd = exec.Command("systemd-socket-activate", append(args, serve.Args[1:]...)...)
	p.cmd.Dir, p.cmd.Env, p.cmd.SysProcAttr = serve.Dir, serve.Env, serve.SysProcAttr
	log, err := os.OpenFile(p.file("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.ended <- p.cmd.Wait() }()
	kit.Eventually(t, "the sockets of systemd", func() bool { return strings.Contains(p.log(), "Listening on "+p.addr(implicitTLS)) })
}
