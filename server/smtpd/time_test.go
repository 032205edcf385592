package smtpd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emersion/go-smtp"
)

// TestTimeouts: the times are those of the configuration, to the nanosecond.
func TestTimeouts(t *testing.T) {
	dribble := func(p *peer) {
		for {
			if _, err := p.Write([]byte("x")); err != nil {
				return
			}
			time.Sleep(10 * time.Second)
		}
	}
	for _, test := range []struct {
		name  string
		run   func(p *peer)
		codes []string
		after time.Duration
	}{
		{"silence", func(*peer) {}, []string{"421"}, time.Minute},
		{"a command byte by byte", func(p *peer) { go dribble(p) }, []string{"421"}, time.Minute},
		{"commands without a login", func(p *peer) {
			go func() {
				for {
					time.Sleep(50 * time.Second)
					if _, err := io.WriteString(p.Conn, "\r\n"); err != nil {
						return
					}
				}
			}()
		}, []string{"500", "500", "500", "421"}, 3 * time.Minute},
		{"silence after the login", func(p *peer) {
			p.say("EHLO client", "250")
			p.say("AUTH X", "235")
		}, []string{"421"}, 5 * time.Minute},
		{"silence in a message", func(p *peer) { p.mail(); p.say("DATA", "354"); p.send("half") }, []string{"451", "421"}, time.Minute},
		{"silence in a chunk", func(p *peer) { p.mail(); p.send("BDAT 100 LAST\r\nhalf") }, []string{"451", "421"}, time.Minute},
		{"silence in a chunk that is refused", func(p *peer) { p.say("EHLO client", "250"); p.send("BDAT 100 LAST\r\nhalf") }, []string{"503", "421"}, time.Minute},
		{"silence in a challenge", func(p *peer) { p.say("EHLO client", "250"); p.say("AUTH CHALLENGE", "334") }, []string{"421"}, time.Minute},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &testSession{}
				s.next = func(context.Context, []byte) ([]byte, *Reply) {
					if s.count("auth CHALLENGE") > 0 {
						return []byte("challenge"), nil
					}
					s.conn.Authenticated()
					return nil, replyAuthenticated
				}
				begun := time.Now()
				p := begin(t, testConfig(), s)
				test.run(p)
				p.expect(test.codes...)
				p.expectEnd()
				if took := time.Since(begun); took != test.after {
					t.Errorf("after %v, want %v", took, test.after)
				}
				time.Sleep(time.Hour) // for the client to notice
			})
		})
	}
}

// TestSlowMessage: a message that keeps coming has all the time it needs.
func TestSlowMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &testSession{}
		cfg := testConfig()
		cfg.LoginTime = time.Hour
		p := begin(t, cfg, s)
		p.mail()
		p.say("DATA", "354")
		const text = "..slow\r\n.\r\n"
		for i := range text {
			time.Sleep(59 * time.Second)
			if _, err := io.WriteString(p.Conn, text[i:i+1]); err != nil {
				t.Fatal(err)
			}
		}
		p.expect("250")
		if got := s.body.String(); got != ".slow\r\n" {
			t.Errorf("%q", got)
		}
		p.say("QUIT", "221")
		p.expectEnd()
	})
}

// TestReplyTime: every method that may take long has one budget, which begins when
// the command, or the last octet of the message, has come.
func TestReplyTime(t *testing.T) {
	wait := func(ctx context.Context) *Reply {
		<-ctx.Done()
		return &Reply{Code: 451, Lines: []string{"late"}, Cause: ctx.Err()}
	}
	for name, run := range map[string]func(s *testSession, p *peer){
		"RCPT": func(s *testSession, p *peer) {
			s.rcpt = wait
			p.say("RCPT TO:<e@f.example>", "451")
		},
		"DATA": func(s *testSession, p *peer) {
			s.data = wait
			p.say("DATA", "451")
		},
		"BDAT": func(s *testSession, p *peer) {
			s.data = wait
			p.say("BDAT 0", "451")
		},
		"end of data": func(s *testSession, p *peer) {
			s.commit = wait
			p.say("DATA", "354")
			p.say("text\r\n.", "451")
		},
		"AUTH": func(s *testSession, p *peer) {
			s.next = func(ctx context.Context, _ []byte) ([]byte, *Reply) { return nil, wait(ctx) }
			p.say("RSET", "250")
			p.say("AUTH X =", "451")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &testSession{}
				p := begin(t, testConfig(), s)
				p.mail()
				time.Sleep(30 * time.Second) // counts for nothing
				begun := time.Now()
				run(s, p)
				if took := time.Since(begun); took != 110*time.Second {
					t.Errorf("the reply came after %v", took)
				}
				s.conn.Authenticated()
				p.say("NOOP", "250")
			})
		})
	}
}

// TestSlowPipeline: a client that pipelines does not wait for all its replies when
// each takes long, and is not sent many small packets when none does.
func TestSlowPipeline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &testSession{}
		s.rcpt = func(context.Context) *Reply { time.Sleep(8 * time.Second); return nil }
		p := begin(t, testConfig(), s)
		p.say("EHLO client", "250")

		begun := time.Now()
		p.send("MAIL FROM:<a@b.example>\r\n" + strings.Repeat("RCPT TO:<c@d.example>\r\n", 5) + "NOOP\r\n")
		for i, after := range []time.Duration{16, 16, 16, 32, 32, 40, 40} { // two of the five at a time
			p.expect("250")
			if took := time.Since(begun); took != after*time.Second {
				t.Errorf("reply %d came after %v", i, took)
			}
		}
	})
}

// TestWriteTime: a client that does not read its replies is given up.
func TestWriteTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &testSession{}
		p := begin(t, testConfig(), s)
		begun := time.Now()
		if _, err := io.WriteString(p.Conn, "NOOP\r\n"); err != nil {
			t.Fatal(err)
		}
		<-p.served
		if took := time.Since(begun); took < time.Minute || took > 2*time.Minute {
			t.Errorf("after %v", took)
		}
	})
}

// TestCloseIdle: at once without a transaction, after it otherwise.
func TestCloseIdle(t *testing.T) {
	bye := NewReply(421, smtp.EnhancedCode{4, 3, 2}, "bye")
	synctest.Test(t, func(t *testing.T) {
		s := &testSession{}
		p := begin(t, testConfig(), s)
		s.conn.CloseIdle(bye)
		p.expect("421")
		p.expectEnd()
		s.has(t, "close "+ErrClosed.Error())
	})
	for _, end := range [][]string{{"RSET", "250"}, {"DATA\r\n.", "354", "250"}, {"BDAT 0 LAST", "250"}, {"EHLO again", "250"}} {
		synctest.Test(t, func(t *testing.T) {
			s := &testSession{}
			p := begin(t, testConfig(), s)
			p.mail()
			s.conn.CloseIdle(bye)
			synctest.Wait()
			p.say("NOOP", "250")
			p.say(end[0], end[1:]...)
			p.expect("421")
			p.expectEnd()
		})
	}
	// An AUTH that waits for its store has two seconds.
	synctest.Test(t, func(t *testing.T) {
		s := &testSession{next: func(ctx context.Context, _ []byte) ([]byte, *Reply) {
			<-ctx.Done()
			return nil, &Reply{Code: 454, Lines: []string{fmt.Sprint(context.Cause(ctx))}}
		}}
		p := begin(t, testConfig(), s)
		p.say("EHLO client", "250")
		p.send("AUTH X\r\n")
		synctest.Wait()
		begun := time.Now()
		s.conn.CloseIdle(bye)
		if last := p.expect("454", "421"); last != "421 4.3.2 bye" || time.Since(begun) != authGrace {
			t.Errorf("%q after %v", last, time.Since(begun))
		}
		p.expectEnd()
	})
}

// TestAbort ends the work for the client, too.
func TestAbort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reason := errors.New("the reason")
		s := &testSession{commit: func(ctx context.Context) *Reply {
			<-ctx.Done()
			return &Reply{Code: 451, Lines: []string{"x"}, Cause: context.Cause(ctx)}
		}}
		p := begin(t, testConfig(), s)
		p.mail()
		p.say("DATA", "354")
		p.send(".\r\n")
		synctest.Wait()
		s.conn.Abort(reason)
		p.expectEnd()
		s.has(t, "commit", "close ")
	})
}

// TestRefuseTime: a connection that is refused within TLS has a few seconds for its
// handshake, and its reply comes after it.
func TestRefuseTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig()
		cfg.ImplicitTLS, cfg.TLS = true, serverTLS(t)
		begun := time.Now()
		server, client := net.Pipe()
		Serve(context.Background(), server, cfg, refuser{})
		if took := time.Since(begun); took != cfg.RefuseTime {
			t.Errorf("a client that does nothing is closed after %v", took)
		}
		_ = client.Close()

		server, client = net.Pipe()
		done := make(chan struct{})
		go func() { defer close(done); Serve(context.Background(), server, cfg, refuser{}) }()
		secured := tls.Client(client, &tls.Config{InsecureSkipVerify: true}) // the certificate is not what is tested
		if text, err := io.ReadAll(secured); err != nil || string(text) != "421 4.7.0 busy\r\n" {
			t.Errorf("%q, %v", text, err)
		}
		_ = client.Close()
		<-done
	})
}

// TestHandshakeAfterReply: the write deadline of an earlier reply does not hold for what
// TLS writes later.
func TestHandshakeAfterReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig()
		cfg.TLS = serverTLS(t)
		cfg.WriteTime = time.Second
		s := &testSession{}
		p := begin(t, cfg, s)
		p.say("STARTTLS", "220")
		time.Sleep(30 * time.Second)
		secured := tls.Client(p.Conn, &tls.Config{InsecureSkipVerify: true}) // the certificate is not what is tested
		if _, err := io.WriteString(secured, "EHLO x\r\n"); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, 100)
		if n, err := secured.Read(answer); err != nil || string(answer[:3]) != "250" {
			t.Errorf("%q, %v", answer[:n], err)
		}
		_ = p.Close()
	})
}
