package test

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"postern/test/kit"
)

// Each backend is checked in another way, every 100 ms. The names of the backends are those
// of the test's cases.
const healthChecks = `
global
  stats socket %[1]s
defaults
  mode tcp
  timeout connect 10s
  timeout client 1m
  timeout server 1m
  timeout check 10s
  default-server inter 100ms
backend v1-helo
  option smtpchk HELO check.example.org
  server postern %[2]s check send-proxy
backend v1-ehlo
  option smtpchk EHLO check.example.org
  server postern %[2]s check send-proxy
backend v2-helo
  option smtpchk HELO check.example.org
  server postern %[2]s check send-proxy-v2
backend v2-ehlo
  option smtpchk EHLO check.example.org
  server postern %[2]s check send-proxy-v2
backend v2-tls
  option smtpchk EHLO check.example.org
  server postern %[3]s check send-proxy-v2 check-ssl verify none
backend v1-connect
  server postern %[2]s check send-proxy
backend v2-connect-tls
  server postern %[3]s check send-proxy-v2
backend mail
  option tcp-check
  tcp-check connect default
  tcp-check expect rstring ^220
  tcp-check send EHLO\ check.example.org\r\n
  tcp-check expect rstring 250.LIMITS
  tcp-check send MAIL\ FROM:<alice@example.org>\r\n
  tcp-check expect rstring ^451.4.3.5
  server postern %[2]s check send-proxy-v2
`

// startHealthChecks starts HAProxy. state returns the result of the last check of each
// backend, such as L7OK.
func startHealthChecks(t *testing.T, p *postern) (state func() map[string]string) {
	t.Helper()
	dir := kit.OpenDir(t)
	file, socket := filepath.Join(dir, "haproxy.cfg"), filepath.Join(dir, "stats")
	write(t, file, fmt.Sprintf(healthChecks, socket, p.addr(startTLS), p.addr(implicitTLS)))
	cmd := command(t, "haproxy", "-db", "-f", file)
	kit.Must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return func() map[string]string {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			return nil
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "show stat\n")
		text, _ := io.ReadAll(conn)
		all := make(map[string]string)
		lines := strings.Split(string(text), "\n")
		column := 0
		for i, name := range strings.Split(lines[0], ",") {
			if name == "check_status" {
				column = i
			}
		}
		for _, line := range lines[1:] {
			if fields := strings.Split(line, ","); len(fields) > column && fields[1] == "postern" {
				all[fields[0]] = fields[column]
			}
		}
		return all
	}
}

// The health checks of HAProxy come with a PROXY header that names no client. They succeed,
// and the log has no line about them; what is more than a health check is refused, with one
// line a minute.
func TestHAProxyHealthChecks(t *testing.T) {
	t.Parallel()
	peer(t, "haproxy")
	p := startPostern(t, posternOptions{
		NextHop: "smtp://" + startSink(t).Addr, Proxied: true, Sections: map[string]string{"log": `level = "debug"`},
	})
	state := startHealthChecks(t, p)
	for _, name := range []string{"v1-helo", "v1-ehlo", "v2-helo", "v2-ehlo", "v2-tls", "v1-connect", "v2-connect-tls", "mail"} {
		want := "L7OK"
		if strings.Contains(name, "connect") {
			want = "L4OK"
		}
		kit.Eventually(t, "the check "+name, func() bool { return state()[name] == want })
	}
	kit.Eventually(t, "100 checks", func() bool { return len(p.logged("msg=connected")) >= 100 })
	if lines := p.logged("level=WARN", "session="); len(lines) != 1 || !containsAll(lines[0], []string{`msg="unknown client"`, "command=MAIL", "count=1"}) {
		t.Errorf("%d lines: %q", len(lines), lines)
	}
	if lines := p.logged("level=ERROR"); len(lines) > 0 {
		t.Errorf("%d lines: %q", len(lines), lines)
	}
}

// HAProxy sends a PROXY header to a server that does not trust it: the log says what to do.
func TestHAProxyNotTrusted(t *testing.T) {
	t.Parallel()
	peer(t, "haproxy")
	p := startPostern(t, posternOptions{NextHop: "smtp://" + startSink(t).Addr})
	for _, mode := range []tlsMode{startTLS, implicitTLS} {
		v1, v2 := startHAProxy(t, p.addr(mode))
		for _, addr := range []string{v1, v2} {
			conn, err := dialFrom(nil, addr)
			kit.Must(t, err)
			text, _ := io.ReadAll(conn)
			if strings.Contains(string(text), "500 ") {
				t.Errorf("%s: a line of the header was read as a command: %q", mode, text)
			}
			_ = conn.Close()
		}
	}
	if lines := p.logged(`msg="foreign protocol"`, "protocol=PROXY count=1", "server.proxy_trusted"); len(lines) != 1 {
		t.Errorf("%d lines, want one for the first:\n%s", len(lines), p.log())
	}
	if lines := p.logged("msg=refused"); len(lines) > 0 {
		t.Errorf("refused commands: %q", lines)
	}
}
