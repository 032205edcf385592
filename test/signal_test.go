package test

import (
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern/test/kit"
)

// A new certificate is served after SIGHUP, while sessions go on; a broken
// one is not.
func TestReloadCertificate(t *testing.T) {
	t.Parallel()
	peer(t, "openssl")
	p := startPostern(t, posternOptions{NextHop: "smtp://" + startSink(t).Addr})
	c := p.mustLogin(t, "alice")
	if got := p.servedSerial(t, startTLS); got != 100 {
		t.Fatalf("the certificate is number %d, want 100", got)
	}
	p.newCertificate(t, 200)
	p.signal(t, syscall.SIGHUP)
	for _, mode := range []tlsMode{startTLS, implicitTLS} {
		kit.Eventually(t, "the new certificate", func() bool { return p.servedSerial(t, mode) == 200 })
	}
	if err := c.want(250, "NOOP"); err != nil {
		t.Errorf("a session from before: %v", err)
	}

	logged := len(p.logLines("cert.pem"))
	write(t, p.file("cert.pem"), "broken")
	p.signal(t, syscall.SIGHUP)
	kit.Eventually(t, "a complaint about the broken certificate", func() bool {
		return len(p.logLines("cert.pem")) > logged
	})
	if got := p.servedSerial(t, startTLS); got != 200 {
		t.Errorf("the certificate is number %d, want the old one, 200", got)
	}
}

// servedSerial is the serial number that openssl sees.
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
		t.Fatalf("openssl said %q: %v", out, err)
	}
	return serial
}

// A broken configuration is refused on SIGHUP and the old one runs on; a good
// one with a new user takes effect.
func TestReloadConfiguration(t *testing.T) {
	t.Parallel()
	s := startSink(t)
	p := startPostern(t, posternOptions{NextHop: "smtp://" + s.Addr})
	p.configure(t, "no_such_key = true\n")
	p.signal(t, syscall.SIGHUP)
	kit.Eventually(t, "a complaint about the broken file", func() bool {
		return len(p.logLines("no_such_key")) > 0
	})
	r, err := p.mustLogin(t, "alice").submit(letter("old-config"), "alice@example.org", "bob@example.net")
	if err := accepted(r, err); err != nil {
		t.Fatal(err)
	}

	write(t, p.file("users"), users+"dave:"+hash+"\n")
	p.configure(t, "")
	p.signal(t, syscall.SIGHUP)
	kit.Eventually(t, "the new user to be let in", func() bool {
		c, err := p.login("dave", loopbackClient(1))
		if err != nil {
			return false
		}
		c.Close()
		return true
	})
}

// SIGTERM: no new connections, 421 to the idle, and the message under way is
// taken. Then postern ends with status 0.
func TestDrain(t *testing.T) {
	t.Parallel()
	s := startSink(t)
	p := startPostern(t, posternOptions{NextHop: "smtp://" + s.Addr})
	idle, busy := p.mustLogin(t, "alice"), p.mustLogin(t, "bob")
	if err := busy.wantAll("MAIL FROM:<bob@example.org>", "RCPT TO:<carol@example.net>", "DATA"); err != nil {
		t.Fatal(err)
	}
	p.signal(t, syscall.SIGTERM)
	if err := idle.want(421, ""); err != nil {
		t.Errorf("the idle session: %v", err)
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
		t.Error("postern has not ended")
	}
}

// A port that is taken, nonsense in the file, no certificate: no start, and a
// word about why.
func TestStartRefused(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name  string
		spoil func(t *testing.T, p *postern)
		says  string
	}{
		{"port in use", func(t *testing.T, p *postern) {
			l, err := net.Listen("tcp", p.addr(startTLS))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		}, "address already in use"},
		{"unknown key", func(t *testing.T, p *postern) { p.configure(t, "no_such_key = 1\n") }, "no_such_key"},
		{"no certificate", func(t *testing.T, p *postern) {
			if err := os.Remove(p.file("cert.pem")); err != nil {
				t.Fatal(err)
			}
		}, "cert.pem"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPostern(t, posternOptions{NextHop: "smtp://127.0.0.1:1"})
			c.spoil(t, p)
			p.wantRefusal(t, c.says)
		})
	}
}

// wantRefusal starts a server that has to end with an error and these words.
// It returns all that was said.
func (p *postern) wantRefusal(t *testing.T, words ...string) string {
	t.Helper()
	out, err := p.command(t, "serve", "--config", p.file("config.toml")).CombinedOutput()
	if err == nil || !containsAll(string(out), words) {
		t.Errorf("ended with %v and said\n%s\nwant %q in it", err, out, words)
	}
	return string(out)
}
