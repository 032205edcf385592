package smtpd

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

const (
	proxyV1 = "PROXY TCP4 192.0.2.1 198.51.100.1 50000 587\r\n"
	proxyV2 = proxySignature + "\x21\x11\x00\x0c\xc0\x00\x02\x01\xc6\x33\x64\x01\xc3\x50\x02\x4b"
)

// TestProxyHeader: a PROXY header that nobody has asked for ends the connection, and no line
// of it is refused as a command.
func TestProxyHeader(t *testing.T) {
	for name, header := range map[string]string{
		"version 1": proxyV1, "version 1, unknown": "PROXY UNKNOWN\r\n", "version 1, cut": "PROXY \r\n",
		"version 2": proxyV2, "version 2, local": proxySignature + "\x20\x00\x00\x00",
	} {
		t.Run(name, func(t *testing.T) {
			s := &testSession{}
			p := begin(t, testConfig(), s)
			p.send(header)
			p.expect("421")
			p.expectEnd()
			s.has(t, "close smtpd: client speaks PROXY, not SMTP")
			if n := s.count("refused"); n > 0 {
				t.Errorf("%d refused commands: %q", n, s.calls)
			}
		})
		t.Run(name+", in pieces", func(t *testing.T) {
			s := &testSession{}
			p := begin(t, testConfig(), s)
			go func() {
				for i := range header {
					_, _ = p.Write([]byte(header[i : i+1]))
				}
			}()
			for line := ""; line != "421 4.7.0 Error: this port is for mail submission (SMTP) only\r\n"; {
				var err error
				if line, err = p.in.ReadString('\n'); err != nil {
					t.Fatal(err)
				}
			}
			p.expectEnd()
			s.has(t, "close smtpd: client speaks PROXY, not SMTP")
		})
		t.Run(name+", instead of TLS", func(t *testing.T) {
			cfg := testConfig()
			cfg.ImplicitTLS, cfg.TLS = true, serverTLS(t)
			server, client := net.Pipe()
			defer client.Close()
			go func() { _, _ = io.WriteString(client, header) }()
			s := &testSession{}
			Serve(t.Context(), server, cfg, s)
			s.has(t, "close smtpd: client speaks PROXY, not SMTP")
		})
	}
}

// TestNoProxyHeader: what only resembles a PROXY header is an unknown command, or a
// handshake that fails.
func TestNoProxyHeader(t *testing.T) {
	s := &testSession{}
	p := begin(t, testConfig(), s)
	for _, line := range []string{"PROXYX", "proxy tcp4", "PROXY", "", "\x00", "\x00x"} {
		p.say(line, "500")
	}
	p.say("\r\n\r\nQUITX", "500", "500", "500")
	p.say("QUIT", "221")

	cfg := testConfig()
	cfg.ImplicitTLS, cfg.TLS = true, serverTLS(t)
	server, client := net.Pipe()
	defer client.Close()
	go func() { _, _ = io.WriteString(client, "EHLO client\r\n") }()
	s = &testSession{}
	Serve(t.Context(), server, cfg, s)
	s.has(t, "close smtpd: TLS handshake")
}

// TestLimitCommands: a client that may only do what a health check does gets the reply for
// every other command, before and after STARTTLS.
func TestLimitCommands(t *testing.T) {
	cfg := testConfig()
	cfg.RequireTLS, cfg.TLS = true, serverTLS(t)
	reply := NewReply(451, [3]int{4, 3, 5}, "health checks only")
	s := &limitedSession{reply: reply}
	server, client := net.Pipe()
	p := &peer{t: t, Conn: client, served: make(chan struct{})}
	p.reader()
	go func() { defer close(p.served); Serve(t.Context(), server, cfg, s) }()
	t.Cleanup(func() { _ = client.Close(); <-p.served })
	p.expect("220")
	check := func() {
		t.Helper()
		p.say("HELO client", "250")
		p.say("EHLO client", "250")
		p.say("NOOP", "250")
		p.say("RSET", "250")
		for _, line := range []string{"AUTH PLAIN AGEAYQ==", "MAIL FROM:<a@b.example>", "RCPT TO:<a@b.example>", "DATA", "VRFY a", "HELP"} {
			if got := p.say(line, "451"); got != "451 4.3.5 health checks only" {
				t.Errorf("%s: %q", line, got)
			}
		}
	}
	check()
	p.say("BDAT 6\r\nQUIT\r\n", "530", "500") // the chunk is read; say has added a line end
	p.say("STARTTLS", "220")
	secured := tls.Client(client, &tls.Config{InsecureSkipVerify: true}) // the certificate is not what is tested
	p.Conn = secured
	p.reader()
	check()
	p.say("QUIT", "221")
	if n := s.count("auth") + s.count("mail") + s.count("rcpt") + s.count("data"); n > 0 {
		t.Errorf("%d calls: %q", n, s.calls)
	}
}

// TestCloseIfIdle: it closes a connection without a transaction, and no other.
func TestCloseIfIdle(t *testing.T) {
	bye := NewReply(421, [3]int{4, 7, 0}, "bye")
	synctest.Test(t, func(t *testing.T) {
		s := &testSession{}
		p := begin(t, testConfig(), s)
		p.mail()
		if s.conn.CloseIfIdle(bye) {
			t.Error("a transaction is not idle")
		}
		p.say("DATA", "354")
		if s.conn.CloseIfIdle(bye) {
			t.Error("a message is not idle")
		}
		p.say("x\r\n.", "250")
		p.say("NOOP", "250")
		for range 2 {
			if !s.conn.CloseIfIdle(bye) {
				t.Error("the connection was not closed")
			}
		}
		p.expect("421")
		p.expectEnd()
		s.has(t, "close "+ErrClosed.Error())
		time.Sleep(authGrace)
	})
}
