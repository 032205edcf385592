package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"postern/test/kit"
)

func TestMain(m *testing.M) { os.Exit(kit.Main(m)) }

// startRote serves connections as the rote server does until the test ends.
func startRote(t *testing.T, l load) *target {
	t.Helper()
	s := &site{dir: t.TempDir()}
	kit.NewCA(t, s.dir).Issue(t, 1, s.path("cert.pem"), s.path("key.pem"))
	cert, err := tls.LoadX509KeyPair(s.path("cert.pem"), s.path("key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	config := &tls.Config{Certificates: []tls.Certificate{cert}}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go serveRote(conn, config)
		}
	}()
	return &target{addr: listener.Addr().String(), tls: s.clientTLS(l)}
}

// The client of the load generator gets the replies that each scenario needs: several
// messages of every size in one session.
func TestRoteServesTheLoadGenerator(t *testing.T) {
	target := startRote(t, load{})
	c, err := target.login(slowUser)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{0, 2 << 10, 1 << 20} {
		for range 2 {
			if err := c.send(letter(size)); err != nil {
				t.Fatalf("a message of %d bytes: %v", size, err)
			}
		}
	}
	if err := c.quit(); err != nil {
		t.Error(err)
	}
}

// Only a line with only a dot ends a message, wherever the reads of the server end.
func TestRoteFindsTheEnd(t *testing.T) {
	const buffer = 4096 // of bufio
	for name, message := range map[string]string{
		"empty":                          "",
		"dots that do not end it":        "..\r\n.x\r\n. \r\nx.\r\n",
		"a line as long as the buffer":   strings.Repeat("x", buffer-2) + "\r\n",
		"a line longer than the buffer":  strings.Repeat("x", 3*buffer+7) + "\r\n",
		"a dot where a read begins":      strings.Repeat("x", buffer) + ".\r\nstill the message\r\n",
		"many lines across many buffers": strings.Repeat(strings.Repeat("y", 70)+"\r\n", 500),
	} {
		t.Run(name, func(t *testing.T) {
			c, err := startRote(t, load{}).login(fastUser)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.begin(); err != nil {
				t.Fatal(err)
			}
			// If the message ended too early, the server would reply to its rest; if too
			// late, not to EHLO and QUIT.
			if _, err := io.WriteString(c.conn, message+".\r\nEHLO again\r\nQUIT\r\n"); err != nil {
				t.Fatal(err)
			}
			rest, err := io.ReadAll(c.in)
			if err != nil {
				t.Fatal(err)
			}
			if got := codes(string(rest)); got != "250 250 221" {
				t.Errorf("the replies are %s:\n%s", got, rest)
			}
		})
	}
}

// codes lists the codes of complete replies.
func codes(replies string) string {
	var all []string
	for line := range strings.Lines(replies) {
		if len(line) > 3 && line[3] == ' ' {
			all = append(all, line[:3])
		}
	}
	return strings.Join(all, " ")
}

// A command that was sent in clear text together with STARTTLS gets no reply inside TLS.
func TestRoteDiscardsWhatPrecedesTLS(t *testing.T) {
	target := startRote(t, load{})
	conn, err := net.Dial("tcp", target.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(kit.Patience))
	in := bufio.NewReader(conn)
	c := &client{conn: conn, in: in}
	if err := c.expect("220"); err != nil {
		t.Fatal(err)
	}
	if err := c.command("220", "STARTTLS\r\nNOSUCH injected"); err != nil {
		t.Fatal(err)
	}
	secured := tls.Client(conn, target.tls)
	c.conn = secured
	c.in.Reset(secured)
	if err := c.command("250", "EHLO client.example.org"); err != nil {
		t.Error(err)
	}
	if err := c.command("503", "STARTTLS"); err != nil {
		t.Error(err)
	}
	if err := c.quit(); err != nil {
		t.Error(err)
	}
}

// With -hybrid each handshake uses X25519MLKEM768, and with -resume each one after the first
// resumes the session.
func TestHandshakesOfLoads(t *testing.T) {
	for _, tt := range []struct {
		load  load
		group tls.CurveID
	}{
		{load{}, tls.X25519},
		{load{hybrid: true}, tls.X25519MLKEM768},
		{load{resume: true}, tls.X25519},
		{load{hybrid: true, resume: true}, tls.X25519MLKEM768},
	} {
		t.Run(fmt.Sprintf("%+v", tt.load), func(t *testing.T) {
			target := startRote(t, tt.load)
			const logins = 5
			for range logins {
				c, err := target.login(slowUser)
				if err != nil {
					t.Fatal(err)
				}
				if err := c.quit(); err != nil {
					t.Fatal(err)
				}
			}
			h := &target.handshakes
			want := map[bool]int{true: logins - 1}[tt.load.resume]
			if h.all != logins || h.resumed != want || h.groups[tt.group] != logins {
				t.Errorf("got %v, want %d with %v, %d resumed", h, logins, tt.group, want)
			}
		})
	}
}
