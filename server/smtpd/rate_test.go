package smtpd

import (
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A pacedClient sends a message at some rate.
type pacedClient struct {
	name   string
	begin  []string           // the last command, and the replies to it
	send   func(p *peer) bool // one step; false: the message is complete
	cut    bool               // the server ends it
	cutErr string             // the call that says why
}

// pace returns steps that send text and wait, n times; then comes end.
func pace(text string, wait time.Duration, n int, end string) func(p *peer) bool {
	return func(p *peer) bool {
		if n--; n < 0 {
			_, _ = io.WriteString(p.Conn, end)
			return false
		}
		if text != "" {
			if _, err := io.WriteString(p.Conn, text); err != nil {
				return false
			}
		}
		time.Sleep(wait)
		return true
	}
}

// TestDataRate: a message that dribbles is cut when its budget of three minutes is used
// up. One that arrives at the minimum rate is not cut, whatever its length, and stalls of
// minutes are tolerated while the budget lasts.
func TestDataRate(t *testing.T) {
	data, bdat := []string{"DATA", "354"}, []string{"BDAT 1000000", ""}
	kilobyte := strings.Repeat("x", 998) + "\r\n"
	for _, test := range []pacedClient{
		{"an octet a second", data, pace("x", time.Second, 1<<12, ""), true, "abort " + ErrTooSlow.Error()},
		{"an octet every two minutes", data, pace("x", 2*time.Minute, 1<<12, ""), true, "abort " + ErrTooSlow.Error()},
		{"less than the rate", data, pace(kilobyte, 3*time.Second, 1<<12, ""), true, "abort " + ErrTooSlow.Error()},
		{"after a burst, an octet a second", data, func() func(p *peer) bool {
			burst, dribble := false, pace("x", time.Second, 1<<12, "")
			return func(p *peer) bool {
				if !burst {
					_, _ = io.WriteString(p.Conn, strings.Repeat(kilobyte, 1000)) // no credit for half an hour
					burst = true
				}
				return dribble(p)
			}
		}(), true, "abort " + ErrTooSlow.Error()},
		{"a chunk, an octet a second", bdat, pace("x", time.Second, 1<<12, ""), true, "abort " + ErrTooSlow.Error()},
		{"a refused chunk, an octet a second", []string{"RSET", "250", "BDAT 10000", ""}, pace("x", time.Second, 1<<12, ""), true, "refused BDAT"},
		{"silence", data, pace("", 10*time.Minute, 1, ""), true, "abort " + ErrTimeout.Error()},

		{"at the rate, for hours", data, pace(kilobyte, 2*time.Second, 5000, "\r\n.\r\n"), false, ""},
		{"an octet at a time, at the rate", data, pace("x", 2*time.Millisecond, 20000, "\r\n.\r\n"), false, ""},
		{"stalls of minutes", data, pace(strings.Repeat(kilobyte, 90), 170*time.Second, 50, ".\r\n"), false, ""},
		{"a chunk at the rate", []string{"BDAT 1000000 LAST", ""}, pace(kilobyte, 2*time.Second, 1000, ""), false, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &testSession{}
				p := begin(t, rateConfig(), s)
				p.mail()
				s.conn.Authenticated()
				for i := 0; i < len(test.begin); i += 2 {
					p.send(test.begin[i] + "\r\n")
					if code := test.begin[i+1]; code != "" {
						p.expect(code)
					}
				}
				synctest.Wait()
				checkPace(t, s, p, test)
			})
		})
	}
}

func rateConfig() *Config {
	cfg := testConfig()
	cfg.MinDataRate = 500
	return cfg
}

func checkPace(t *testing.T, s *testSession, p *peer, test pacedClient) {
	begun := time.Now()
	go func() {
		for test.send(p) { //nolint:revive // each step sends
		}
	}()
	if !test.cut {
		p.expect("250")
		p.say("QUIT", "221")
		p.expectEnd()
		time.Sleep(time.Hour) // for the client to notice
		return
	}
	code := "451"
	if strings.HasPrefix(test.cutErr, "refused") {
		code = "503"
	}
	p.expect(code)
	last, want := p.expect("421"), "421 4.4.2 Error: data rate is too low"
	if strings.HasSuffix(test.cutErr, ErrTimeout.Error()) {
		want = "421 4.4.2 Error: message cut short"
	}
	if last != want {
		t.Errorf("%q", last)
	}
	p.expectEnd()
	s.has(t, test.cutErr)
	if took := time.Since(begun); took < 3*time.Minute || took > 10*time.Minute {
		t.Errorf("cut after %v", took)
	}
	time.Sleep(time.Hour) // for the client to notice
}

// TestChunkRate: the chunks of a message have one budget, with the waits between them. The
// time that the server takes does not count.
func TestChunkRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &testSession{}
		p := begin(t, rateConfig(), s)
		p.mail()
		s.conn.Authenticated()
		chunks := 0
		for ; ; chunks++ {
			p.send("BDAT 1\r\nx")
			if line, err := p.in.ReadString('\n'); err != nil || line[:3] != "250" {
				if line != "421 4.4.2 Error: data rate is too low\r\n" {
					t.Errorf("%q, %v", line, err)
				}
				break
			}
			time.Sleep(20 * time.Second)
		}
		if chunks != 10 { // nine waits of 20 seconds use the budget of three minutes, but for the octets' credit
			t.Errorf("cut after %d chunks", chunks)
		}
		p.expectEnd()
		s.has(t, "abort "+ErrTooSlow.Error(), "refused BDAT", "close "+ErrTooSlow.Error())
		time.Sleep(time.Hour)
	})
	synctest.Test(t, func(t *testing.T) {
		s := &testSession{}
		s.write = func() error { time.Sleep(time.Minute); return nil }
		p := begin(t, rateConfig(), s)
		p.mail()
		s.conn.Authenticated()
		for range 20 {
			p.say("BDAT 1\r\nx", "250", "500") // and an empty line
		}
		p.say("BDAT 0 LAST", "250")
	})
}

// TestCommandsDribble: after the login, too, a command line has one time from its first
// octet to its last.
func TestCommandsDribble(t *testing.T) {
	for _, before := range []string{"NOOP", "MAIL FROM:<a@b.example>"} {
		synctest.Test(t, func(t *testing.T) {
			s := &testSession{}
			p := begin(t, rateConfig(), s)
			p.say("EHLO client", "250")
			s.conn.Authenticated()
			p.say(before, "250")
			begun := time.Now()
			go func() {
				for dribble := pace("x", time.Minute, 1<<12, ""); dribble(p); { //nolint:revive // each step sends
				}
			}()
			p.expect("421")
			p.expectEnd()
			if took := time.Since(begun); took != 5*time.Minute {
				t.Errorf("after %v", took)
			}
			time.Sleep(time.Hour)
		})
	}
}
