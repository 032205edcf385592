package test

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"testing"

	"postern/test/kit"
)

const haproxyConfig = `
defaults
  mode tcp
  timeout connect 10s
  timeout client 1m
  timeout server 1m
listen v1
  bind %s
  server postern %[3]s send-proxy
listen v2
  bind %[2]s
  server postern %[3]s send-proxy-v2
`

// With HAProxy before postern the log has the address of the client, with either version of
// the PROXY protocol.
func TestHAProxy(t *testing.T) {
	t.Parallel()
	peer(t, "haproxy")
	p := startPostern(t, posternOptions{NextHop: "smtp://" + startSink(t).Addr, Proxied: true})
	v1, v2 := startHAProxy(t, p.addr(startTLS))
	for i, addr := range []string{v1, v2} {
		from := loopbackClient(i)
		conn, err := dialFrom(from, addr)
		kit.Must(t, err)
		c, err := p.greet(conn, startTLS)
		kit.Must(t, err)
		t.Cleanup(c.Close)
		if err := c.want(535, "AUTH PLAIN "+kit.Plain("alice", "wrong")); err != nil {
			t.Error(err)
		}
		if lines := p.logged("auth failed", "client="+from.IP.String()+" "); len(lines) != 1 {
			t.Errorf("version %d: %d lines with the address of the client, want one:\n%s", i+1, len(lines), p.log())
		}
	}
}

func startHAProxy(t *testing.T, server string) (v1, v2 string) {
	t.Helper()
	v1, v2 = kit.Addr(t), kit.Addr(t)
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	write(t, file, fmt.Sprintf(haproxyConfig, v1, v2, server))
	cmd := command(t, "haproxy", "-db", "-f", file)
	kit.Must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	kit.Eventually(t, "HAProxy", func() bool { return listening(v1) && listening(v2) })
	return v1, v2
}

// A trusted proxy must send a PROXY header, and other clients must not.
func TestProxyHeader(t *testing.T) {
	t.Parallel()
	p := startPostern(t, posternOptions{NextHop: "smtp://" + startSink(t).Addr, Proxied: true})
	cases := []struct {
		name   string
		from   net.IP
		header string
		served bool
	}{
		{"proxy with header", net.IPv4(127, 0, 0, 1), "PROXY TCP4 192.0.2.9 192.0.2.1 50000 587\r\n", true},
		{"proxy without header", net.IPv4(127, 0, 0, 1), "EHLO x\r\n", false},
		{"client without header", net.IPv4(127, 1, 0, 1), "", true},
		{"client with header", net.IPv4(127, 1, 0, 1), "PROXY TCP4 192.0.2.9 192.0.2.1 50000 587\r\n", false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			conn, err := dialFrom(&net.TCPAddr{IP: c.from}, p.addr(implicitTLS))
			kit.Must(t, err)
			defer conn.Close()
			if _, err := io.WriteString(conn, c.header); err != nil {
				t.Fatal(err)
			}
			sub, err := p.greet(conn, implicitTLS)
			if (err == nil) != c.served {
				t.Fatalf("served: %v (%v), want %v", err == nil, err, c.served)
			}
			if err == nil {
				sub.Close()
			}
		})
	}
}
