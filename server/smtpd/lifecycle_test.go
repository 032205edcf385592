package smtpd

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
)

// TestPanic: a panic ends its own connection, with 421.
func TestPanic(t *testing.T) {
	burst := func(context.Context) *Reply { panic("burst") }
	for name, run := range map[string]func(s *testSession, p *peer){
		"Hello":  func(s *testSession, p *peer) { s.hello = func() *Reply { panic("burst") }; p.send("EHLO x\r\n") },
		"Rcpt":   func(s *testSession, p *peer) { s.rcpt = burst; p.send("RCPT TO:<a@b.example>\r\n") },
		"Data":   func(s *testSession, p *peer) { s.data = burst; p.send("DATA\r\n") },
		"Commit": func(s *testSession, p *peer) { s.commit = burst; p.say("DATA", "354"); p.send(".\r\n") },
		"Write":  func(s *testSession, p *peer) { s.write = func() error { panic("burst") }; p.send("BDAT 1\r\nx") },
		"Next": func(s *testSession, p *peer) {
			s.next = func(context.Context, []byte) ([]byte, *Reply) { panic("burst") }
			p.say("RSET", "250")
			p.send("AUTH X\r\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := &testSession{}
			p := begin(t, testConfig(), s)
			p.mail()
			run(s, p)
			p.expect("421")
			p.expectEnd()
			s.has(t, "close smtpd: panic")
			if s.count("end ") != s.count("auth ") {
				t.Errorf("the exchange was not closed once: %q", s.calls)
			}
		})
	}
}

// TestPanicAtTheEnd: so does a panic of an observer when the connection has ended.
func TestPanicAtTheEnd(t *testing.T) {
	s := &testSession{}
	s.commit = func(context.Context) *Reply {
		return &Reply{Code: 250, Lines: []string{"Ok"}, OnSeen: func(bool) { panic("burst") }}
	}
	p := begin(t, testConfig(), s)
	p.mail()
	p.say("DATA", "354")
	p.say(".", "250")
	_ = p.Close()
	<-p.served
	s.has(t, "close smtpd: panic")
}

// TestBodyEndsOnce: Commit or Abort, exactly once, however a message ends.
func TestBodyEndsOnce(t *testing.T) {
	full := func(s *testSession) { s.write = func() error { return errors.New("disk full") } }
	small := func(s *testSession) { s.offer.Size = 10 }
	for _, test := range []struct {
		name  string
		setup func(s *testSession)
		send  string
		want  string // the only call that ends the body
	}{
		{"DATA", nil, "DATA\r\nx\r\n.\r\nQUIT\r\n", "commit"},
		{"BDAT LAST", nil, "BDAT 1 LAST\r\nxQUIT\r\n", "commit"},
		{"chunks", nil, "BDAT 1\r\nxNOOP\r\nBDAT 0 LAST\r\nQUIT\r\n", "commit"},
		{"RSET", nil, "BDAT 1\r\nxRSET\r\nQUIT\r\n", "abort " + ErrReset.Error()},
		{"EHLO", nil, "BDAT 1\r\nxEHLO y\r\nQUIT\r\n", "abort " + ErrReset.Error()},
		{"QUIT", nil, "BDAT 1\r\nxQUIT\r\n", "abort " + ErrQuit.Error()},
		{"malformed BDAT", nil, "BDAT 1\r\nxBDAT y\r\n", "abort " + ErrClosed.Error()},
		{"cut in DATA", nil, "DATA\r\nx\r\n.", "abort "},
		{"cut in a chunk", nil, "BDAT 5\r\nx", "abort "},
		{"cut between chunks", nil, "BDAT 1\r\nx", "abort "},
		{"too large", small, "DATA\r\n0123456789\r\n.\r\nQUIT\r\n", "abort " + ErrTooLarge.Error()},
		{"too large a chunk", small, "BDAT 11\r\n0123456789xBDAT 1 LAST\r\nxQUIT\r\n", "abort " + ErrTooLarge.Error()},
		{"far too large", small, "DATA\r\n" + strings.Repeat("0123456789", 10), "abort " + ErrTooLarge.Error()},
		{"write error", full, "DATA\r\nx\r\n.\r\nQUIT\r\n", "abort disk full"},
		{"write error in a chunk", full, "BDAT 1\r\nxBDAT 1 LAST\r\nxQUIT\r\n", "abort disk full"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &testSession{}
			if test.setup != nil {
				test.setup(s)
			}
			p := begin(t, testConfig(), s)
			p.mail()
			go func() {
				_, _ = io.WriteString(p.Conn, test.send)
				if strings.HasPrefix(test.name, "cut") {
					_ = p.Conn.Close()
				}
			}()
			_, _ = io.Copy(io.Discard, p.in)
			<-p.served
			s.has(t, test.want, "close ")
			if n := s.count("commit") + s.count("abort"); n != 1 {
				t.Errorf("the body ended %d times: %q", n, s.calls)
			}
			if n := s.count("reset"); n != 1 {
				t.Errorf("%d resets: %q", n, s.calls)
			}
		})
	}
}

// TestChunksAfterRefusal: a client that goes on after its message was refused does not
// do so without end, neither with many chunks nor with large ones.
func TestChunksAfterRefusal(t *testing.T) {
	for _, test := range []struct {
		chunk string
		size  int64 // limit of the message
		most  int   // chunks that are answered without a 421 after them
	}{
		{"BDAT 1000\r\n" + strings.Repeat("x", 1000), 50 << 20, 1 + 99 + 19}, // EHLO is junk, too, and the refusal itself an error
		{"BDAT 15000\r\n" + strings.Repeat("x", 15000), 50000, 1 + 6},        // 7 make twice the limit, and 5,000 octets more
	} {
		s := &testSession{offer: Offer{Size: test.size}}
		s.write = func() error { return errors.New("disk full") }
		p := begin(t, testConfig(), s)
		p.mail()
		s.conn.Authenticated()
		go func() {
			for {
				if _, err := io.WriteString(p.Conn, test.chunk); err != nil {
					return
				}
			}
		}()
		p.expect("451")
		for range test.most - 1 {
			p.expect("503")
		}
		p.expect("421")
		p.expectEnd()
		s.has(t, "abort disk full")
	}
}

// TestExchangeEndsOnce likewise.
func TestExchangeEndsOnce(t *testing.T) {
	for _, test := range []struct{ name, send, code, want string }{
		{"success", "AUTH X =\r\n", "235", "end <nil>"},
		{"cancelled", "AUTH Y\r\n*\r\n", "501 5.7.0", "end " + ErrCancelled.Error()},
		{"not base64", "AUTH Y\r\n!\r\n", "501 5.5.2", "end " + ErrMalformed.Error()},
		{"an initial response that is not", "AUTH X !\r\n", "501 5.5.2", "end " + ErrMalformed.Error()},
		{"too long", "AUTH Y\r\n" + strings.Repeat("A", 17<<10) + "\r\n", "500 5.5.6", "end " + ErrMalformed.Error()},
		{"far too long", "AUTH Y\r\n" + strings.Repeat("A", 70<<10), "500 5.5.2", "end " + ErrTooLong.Error()},
		{"cut", "AUTH Y\r\nAA", "", "end EOF"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &testSession{}
			s.next = func(context.Context, []byte) ([]byte, *Reply) {
				if s.count("auth Y") == 1 {
					return []byte("?"), nil
				}
				return nil, replyAuthenticated
			}
			p := begin(t, testConfig(), s)
			p.say("EHLO x", "250")
			p.send(test.send)
			if s.next != nil && strings.Contains(test.send, "AUTH Y") {
				p.expect("334")
			}
			switch test.name {
			case "cut":
				time.Sleep(0)
				_ = p.Close()
			case "far too long":
				p.expect(test.code)
			default:
				p.expect(test.code)
				p.say("NOOP", "250") // in step
				_ = p.Close()
			}
			<-p.served
			if test.name != "cut" {
				s.has(t, test.want)
			}
			if n := s.count("end "); n != 1 {
				t.Errorf("the exchange ended %d times: %q", n, s.calls)
			}
		})
	}
}

// TestLongLine: a line that is too long is one refused command, as long as its end
// comes; and it is not taken for two.
func TestLongLine(t *testing.T) {
	s := &testSession{}
	p := begin(t, testConfig(), s)
	p.say("NOOP "+strings.Repeat("x", 16<<10-len("NOOP \r\n")), "250")
	p.say("NOOP "+strings.Repeat("x", 16<<10-len("NOOP \r\n")+1), "500 5.5.2")
	p.say(strings.Repeat("x", 60<<10), "500 5.5.2")
	p.say("NOOP", "250")
	p.send(strings.Repeat("x", 100<<10))
	p.expect("500 5.5.2")
	p.expectEnd()
	s.has(t, "close "+ErrTooLong.Error())
}

// TestOnSeen: the observer of a reply is called once.
func TestOnSeen(t *testing.T) {
	for _, test := range []struct {
		name string
		then func(p *peer)
		want []bool
	}{
		{"another command", func(p *peer) { p.say("QUIT", "221") }, []bool{true}},
		{"the end", func(p *peer) { _ = p.Close() }, []bool{false}},
		{"another command and the end", func(p *peer) { p.say("EHLO seen", "250"); _ = p.Close() }, []bool{true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var mu sync.Mutex
			var seen []bool
			s := &testSession{}
			s.commit = func(context.Context) *Reply {
				return &Reply{Code: 250, Lines: []string{"Ok"}, OnSeen: func(yes bool) {
					mu.Lock()
					defer mu.Unlock()
					seen = append(seen, yes)
				}}
			}
			p := begin(t, testConfig(), s)
			p.mail()
			p.say("BDAT 0 LAST", "250")
			test.then(p)
			<-p.served
			if !slices.Equal(seen, test.want) {
				t.Errorf("%v, want %v", seen, test.want)
			}
		})
	}
}

// TestAnyPieces: the conversation does not depend on how it is cut into packets.
func TestAnyPieces(t *testing.T) {
	conversation := "EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nBDAT 7\r\nNOOP\r\n.BDAT 2 last\r\n\r\n" +
		"NOOP\nAUTH Y\r\nAA==\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n..a\r\n.b\r\n\r\n.\r\n\r\n" +
		strings.Repeat("VRFY "+strings.Repeat("x", 300)+"\r\n", 3) + "QUIT\r\nNOOP\r\n"
	play := func(size int) (replies string, calls []string) {
		s := &testSession{}
		s.next = func(_ context.Context, response []byte) ([]byte, *Reply) {
			if response == nil {
				return []byte("?"), nil
			}
			return nil, replyAuthenticated
		}
		p := begin(t, testConfig(), s)
		go func() {
			for rest := conversation; rest != ""; {
				n := min(size, len(rest))
				if _, err := io.WriteString(p.Conn, rest[:n]); err != nil {
					return
				}
				rest = rest[n:]
			}
		}()
		all, _ := io.ReadAll(p.in)
		<-p.served
		return string(all) + s.body.String(), s.calls
	}
	want, wantCalls := play(len(conversation))
	if !strings.HasSuffix(want, "221 2.0.0 Bye\r\n.a\r\nb\r\n\r\n") {
		t.Fatalf("%s\n%q", want, wantCalls)
	}
	for _, size := range []int{1, 2, 3, 5, 7, 100, smallInput - 1, smallInput, smallInput + 1} {
		if got, calls := play(size); got != want || !slices.Equal(calls, wantCalls) {
			t.Errorf("in pieces of %d:\n%s\n%q\nwant\n%s\n%q", size, got, calls, want, wantCalls)
		}
	}
}

// TestNoPasswordIsKept: the buffer of an idle connection has no password in it, however
// long it was and in however many pieces it came.
func TestNoPasswordIsKept(t *testing.T) {
	s := &testSession{}
	s.next = func(_ context.Context, response []byte) ([]byte, *Reply) {
		if response == nil {
			return nil, nil
		}
		return nil, NewReply(535, smtp.EnhancedCode{5, 7, 8}, "no")
	}
	p := begin(t, testConfig(), s)
	p.say("EHLO x", "250")
	const password = "c2VjcmV0c2VjcmV0"
	for _, text := range []string{password, strings.Repeat(password, 40)} {
		p.say("AUTH PLAIN", "334")
		p.say(text, "535")
		p.say("AUTH PLAIN "+text, "535")
		if _, err := io.WriteString(p.Conn, "AUTH PLAIN "+password); err != nil {
			t.Fatal(err)
		}
		p.say(text[len(password):], "535")
	}
	_ = p.Close()
	<-p.served
	if bytes.Contains(s.conn.in.small[:], []byte(password)) {
		t.Errorf("it is in %q", s.conn.in.small[:40])
	}
}

// TestStartTLSForgets: nothing that was sent in clear text holds afterwards, a login
// included (RFC 3207, section 4.2), and what was sent with STARTTLS is not run.
func TestStartTLSForgets(t *testing.T) {
	cfg := testConfig()
	cfg.TLS = serverTLS(t)
	s := &testSession{}
	p := begin(t, cfg, s)
	p.say("EHLO clear", "250")
	p.say("AUTH X =", "235")
	p.say("MAIL FROM:<a@b.example>", "250")
	p.say("STARTTLS\r\nEHLO injected\r\nMAIL FROM:<injected@b.example>", "220")
	p.Conn = tls.Client(p.Conn, &tls.Config{InsecureSkipVerify: true})
	p.in.Reset(p.Conn)
	for _, line := range []string{"AUTH X =", "MAIL FROM:<c@d.example>", "RCPT TO:<c@d.example>", "STARTTLS"} {
		p.say(line, "503")
	}
	p.say("EHLO secret", "250")
	p.say("AUTH X =", "235")
	p.say("AUTH X =", "503")
	if s.count("hello injected")+s.count("mail injected")+s.count("rcpt") > 0 || s.count("auth X") != 2 || s.count(fmt.Sprint("reset ", ResetTLS)) != 1 {
		t.Errorf("%q", s.calls)
	}
}

// TestLongHandshake: a client does not fill the memory with a handshake that never ends.
func TestLongHandshake(t *testing.T) {
	cfg := testConfig()
	cfg.ImplicitTLS, cfg.TLS = true, serverTLS(t)
	s := &testSession{}
	server, client := net.Pipe()
	go Serve(context.Background(), server, cfg, s)
	hello := append([]byte("\x01\x00\xff\xf0"), make([]byte, 64<<10)...) // a ClientHello of nearly 64 KiB
	sent := 0
	for ; sent < len(hello); sent += 1 << 10 {
		record := append([]byte("\x16\x03\x01\x04\x00"), hello[sent:sent+1<<10]...)
		if _, err := client.Write(record); err != nil {
			break
		}
	}
	if _, err := client.Read(make([]byte, 1)); err != io.EOF || sent > 17<<10 {
		t.Errorf("%d octets of the handshake were read, then %v", sent, err)
	}
}

// TestRefusedConnection: the reply takes the place of the greeting.
func TestRefusedConnection(t *testing.T) {
	server, client := net.Pipe()
	served := make(chan struct{})
	go func() {
		defer close(served)
		Serve(context.Background(), server, testConfig(), refuser{})
	}()
	if text, err := io.ReadAll(client); err != nil || string(text) != "421 4.7.0 busy\r\n" {
		t.Errorf("%q, %v", text, err)
	}
	<-served
}

type refuser struct{}

func (refuser) NewSession(context.Context, *Conn) (Session, *Reply) {
	return nil, NewReply(421, smtp.EnhancedCode{4, 7, 0}, "busy")
}

func TestNewID(t *testing.T) {
	seen := make(map[string]bool)
	for range 1000 {
		id := NewID()
		if len(id) != 12 || strings.ContainsFunc(id, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '2' || r > '7') }) || seen[id] {
			t.Fatalf("an odd id: %q", id)
		}
		seen[id] = true
	}
}
