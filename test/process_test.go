package test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern/test/kit"
)

// After SIGHUP a new certificate is served, and open sessions continue. A broken
// certificate is not used.
func TestReloadCertificate(t *testing.T) {
	t.Parallel()
	peer(t, "openssl")
	p := startPostern(t, posternOptions{NextHop: "smtp://" + startSink(t).Addr})
	c := p.mustLogin(t, "alice")
	if got := p.servedSerial(t, startTLS); got != 100 {
		t.Fatalf("serial number %d, want 100", got)
	}
	p.newCertificate(t, 200)
	p.signal(t, syscall.SIGHUP)
	for _, mode := range []tlsMode{startTLS, implicitTLS} {
		kit.Eventually(t, "the new certificate", func() bool { return p.servedSerial(t, mode) == 200 })
	}
	if err := c.want(250, "NOOP"); err != nil {
		t.Errorf("a session that was open before: %v", err)
	}

	logged := len(p.logged("cert.pem"))
	write(t, p.file("cert.pem"), "broken")
	p.signal(t, syscall.SIGHUP)
	kit.Eventually(t, "the error about the broken certificate", func() bool {
		return len(p.logged("cert.pem")) > logged
	})
	if got := p.servedSerial(t, startTLS); got != 200 {
		t.Errorf("serial number %d, want 200 of the old certificate", got)
	}
}

// servedSerial returns the serial number that openssl gets.
func (p *postern) servedSerial(t *testing.T, mode tlsMode) int {
	t.Helper()
	script := `openssl s_client -connect "$0" $2 -CAfile "$1" -verify_return_error </dev/null 2>/dev/null | openssl x509 -noout -serial`
	starttls := map[tlsMode]string{startTLS: "-starttls smtp", implicitTLS: ""}[mode]
	script = strings.Replace(script, "$2", starttls, 1)
	out, err := command(t, "sh", "-c", script, p.addr(mode), p.ca.File).CombinedOutput()
	if err != nil {
		t.Fatalf("openssl: %v\n%s", err, out)
	}
	var serial int
	if _, err := fmt.Sscanf(string(out), "serial=%X", &serial); err != nil {
		t.Fatalf("openssl printed %q: %v", out, err)
	}
	return serial
}

// On SIGHUP a broken configuration is refused and the old one stays in use; a valid one
// takes effect.
func TestReloadConfiguration(t *testing.T) {
	t.Parallel()
	s := startSink(t)
	p := startPostern(t, posternOptions{NextHop: "smtp://" + s.Addr})
	p.configure(t, "no_such_key = true\n")
	p.signal(t, syscall.SIGHUP)
	kit.Eventually(t, "the error about the broken file", func() bool {
		return len(p.logged("no_such_key")) > 0
	})
	r, err := p.mustLogin(t, "alice").submit(letter("old-config"), "alice@example.org", "bob@example.net")
	kit.Must(t, accepted(r, err))

	write(t, p.file("users"), users+"dave:"+hash+"\n")
	p.configure(t, "")
	p.signal(t, syscall.SIGHUP)
	kit.Eventually(t, "the login of the new user", func() bool {
		c, err := p.login("dave", loopbackClient(1))
		if err != nil {
			return false
		}
		c.Close()
		return true
	})
}

// After SIGTERM postern accepts no new connections, sends 421 to idle clients, accepts the
// message that is being sent, and ends with status 0.
func TestDrain(t *testing.T) {
	t.Parallel()
	s := startSink(t)
	p := startPostern(t, posternOptions{NextHop: "smtp://" + s.Addr})
	idle, busy := p.mustLogin(t, "alice"), p.mustLogin(t, "bob")
	kit.Must(t, busy.wantAll("MAIL FROM:<bob@example.org>", "RCPT TO:<carol@example.net>", "DATA"))
	p.signal(t, syscall.SIGTERM)
	if err := idle.want(421, ""); err != nil {
		t.Errorf("idle session: %v", err)
	}
	kit.Eventually(t, "the ports to be closed", func() bool {
		return !listening(p.addr(startTLS)) && !listening(p.addr(implicitTLS))
	})
	if err := accepted(busy.finish(letter("drained"))); err != nil {
		t.Error(err)
	}
	s.wait(t, "<drained@")
	select {
	case err := <-p.ended:
		p.ended <- err
		if err != nil {
			t.Errorf("postern ended with %v", err)
		}
	case <-time.After(kit.Patience):
		t.Error("postern did not end")
	}
}

// postern does not start, and prints the reason, if a port is in use, a key is unknown or
// the certificate is missing.
func TestStartRefused(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name   string
		damage func(t *testing.T, p *postern)
		want   string
	}{
		{"port in use", func(t *testing.T, p *postern) {
			l, err := net.Listen("tcp", p.addr(startTLS))
			kit.Must(t, err)
			t.Cleanup(func() { l.Close() })
		}, "address already in use"},
		{"unknown key", func(t *testing.T, p *postern) { p.configure(t, "no_such_key = 1\n") }, "no_such_key"},
		{"no certificate", func(t *testing.T, p *postern) {
			kit.Must(t, os.Remove(p.file("cert.pem")))
		}, "cert.pem"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPostern(t, posternOptions{NextHop: "smtp://127.0.0.1:1"})
			c.damage(t, p)
			p.wantRefusal(t, c.want)
		})
	}
}

// wantRefusal starts a server that must end with an error whose text contains words. It
// returns the output.
func (p *postern) wantRefusal(t *testing.T, words ...string) string {
	t.Helper()
	out, err := p.command(t, "serve", "--config", p.file("config.toml")).CombinedOutput()
	if err == nil || !containsAll(string(out), words) {
		t.Errorf("ended with %v and printed\n%s\nwant %q in it", err, out, words)
	}
	return string(out)
}

// systemd opens the ports and passes them to postern, which binds none itself.
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
		t.Error("no server on the second socket")
	}
}

// A socket that belongs to no listener would never be served, so postern does not start.
func TestSocketWithoutListener(t *testing.T) {
	t.Parallel()
	peer(t, "systemd-socket-activate")
	p := newPostern(t, posternOptions{NextHop: "smtp://127.0.0.1:1"})
	p.activateOnly(t, "starttls:pop3")
	if c, err := p.connect(startTLS, nil); err == nil {
		c.Close()
		t.Error("a client was served")
	}
	select {
	case <-p.ended:
	case <-time.After(kit.Patience):
		_ = p.cmd.Process.Kill()
		t.Fatal("postern did not end")
	}
	if !strings.Contains(p.log(), `systemd passes a socket named "pop3"`) {
		t.Errorf("no log line about the socket:\n%s", p.log())
	}
}

// activate is run with sockets that systemd opens and names.
func (p *postern) activate(t *testing.T, names string) {
	t.Helper()
	p.activateOnly(t, names)
	t.Cleanup(func() { p.finish(t) })
	kit.Eventually(t, "postern under systemd-socket-activate", func() bool { return p.answers(t, startTLS) })
}

func (p *postern) activateOnly(t *testing.T, names string) {
	t.Helper()
	serve := p.command(t, "serve", "--config", p.file("config.toml"))
	args := []string{"--listen", p.addr(startTLS), "--listen", p.addr(implicitTLS), "--fdname", names,
		"--setenv", "GORACE", serve.Path}
	p.cmd = exec.Command("systemd-socket-activate", append(args, serve.Args[1:]...)...)
	p.cmd.Dir, p.cmd.Env, p.cmd.SysProcAttr = serve.Dir, serve.Env, serve.SysProcAttr
	log, err := os.OpenFile(p.file("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	kit.Must(t, err)
	defer log.Close()
	p.cmd.Stdout, p.cmd.Stderr = log, log
	kit.Must(t, p.cmd.Start())
	go func() { p.ended <- p.cmd.Wait() }()
	kit.Eventually(t, "the sockets of systemd", func() bool { return strings.Contains(p.log(), "Listening on "+p.addr(implicitTLS)) })
}

// postern that is started as root binds its ports and then becomes the user for good: in
// every thread, with the groups of that user, and without any capability.
func TestRootBecomesUser(t *testing.T) {
	t.Parallel()
	peer(t, "root")
	s := startSink(t)
	p := startPostern(t, posternOptions{
		NextHop:  "smtp://" + s.Addr,
		Sections: map[string]string{"server": `user = "nobody"`},
		Root:     true,
	})
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", p.cmd.Process.Pid))
	if err != nil || len(threads) == 0 {
		t.Fatalf("no threads: %v", err)
	}
	for _, thread := range threads {
		wantFields(t, thread, map[string]string{
			"Uid:":    "65534 65534 65534 65534",
			"Gid:":    "65534 65534 65534 65534",
			"Groups:": "65534",
			"CapPrm:": "0000000000000000",
			"CapEff:": "0000000000000000",
			"CapInh:": "0000000000000000",
			"CapAmb:": "0000000000000000",
			"CapBnd:": "0000000000000000",

			"NoNewPrivs:": "1",
		})
	}
	r, err := p.mustLogin(t, "alice").submit(letter("dropped"), "alice@example.org", "bob@example.net")
	if err := accepted(r, err); err != nil {
		t.Error(err)
	}
	s.wait(t, "<dropped@")
}

// wantFields checks a file of "Name: values" lines.
func wantFields(t *testing.T, file string, want map[string]string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		return // the thread has ended
	}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if value, ok := want[words[0]]; ok && strings.Join(words[1:], " ") != value {
			t.Errorf("%s: %q, want %s", file, strings.TrimSpace(line), value)
		}
	}
}

// postern does not start as root without server.user.
func TestRootWithoutUser(t *testing.T) {
	t.Parallel()
	peer(t, "root")
	p := newPostern(t, posternOptions{NextHop: "smtp://127.0.0.1:1", Root: true})
	p.wantRefusal(t, "server.user")
}

// A key that the user could not read at a reload is an error at the start. The command at
// the end of the error corrects it.
func TestUnreadableKey(t *testing.T) {
	t.Parallel()
	peer(t, "root")
	p := newPostern(t, posternOptions{
		NextHop:  "smtp://" + startSink(t).Addr,
		Sections: map[string]string{"server": `user = "nobody"`},
		Root:     true,
	})
	kit.Must(t, errors.Join(os.Chown(p.file("key.pem"), 0, 0), os.Chmod(p.file("key.pem"), 0o600)))
	output := p.wantRefusal(t, p.file("key.pem"), "root:root", "0600")
	lines := strings.Split(strings.TrimSpace(output), "\n")
	if out, err := command(t, "sh", "-c", lines[len(lines)-1]).CombinedOutput(); err != nil {
		t.Fatalf("the command in the error: %v\n%s\n%s", err, out, output)
	}
	p.run(t)
}
