package relay

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"postern/relay/message"
	"postern/relay/relaytest"
	"postern/test/kit"
)

// pipeliners are hops with PIPELINING and without.
var pipeliners = map[string]relaytest.Options{
	"together":   {},
	"one by one": {Extensions: []string{"8BITMIME", "SIZE 10240000", "SMTPUTF8", "DSN"}},
}

// A tap is the connection to a hop. It records each write, and fails after all but the last
// byte of the one that ends with final.
type tap struct {
	net.Conn
	writes []string
	final  string
}

var errCut = errors.New("cut off")

func (t *tap) Write(p []byte) (int, error) {
	t.writes = append(t.writes, string(p))
	if t.final != "" && strings.HasSuffix(string(p), t.final) {
		n, _ := t.Conn.Write(p[:len(p)-1])
		return n, errCut
	}
	return t.Conn.Write(p)
}

func openConn(t testing.TB, hop *relaytest.Hop) (*conn, *tap) {
	t.Helper()
	cfg := Defaults()
	p, err := newPeer(mustURL(t, hop.URL()), &cfg)
	if err != nil {
		t.Fatal(err)
	}
	c, err := p.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.raw.Close() })
	tapped := &tap{Conn: c.Conn}
	c.Conn = tapped
	return c, tapped
}

// envelope sends a sender and a recipient on c.
func envelope(t testing.TB, c *conn, to string) error {
	t.Helper()
	if !c.open {
		if err := c.mail(t.Context(), "alice@example.org", &smtp.MailOptions{}); err != nil {
			return err
		}
	}
	return c.rcpt(t.Context(), recipient{address: to})
}

// A short message on an existing connection is three packets.
func TestWrites(t *testing.T) {
	const (
		mail = "MAIL FROM:<alice@example.org> BODY=8BITMIME\r\n"
		rcpt = "RCPT TO:<bob@example.com>\r\n"
		data = "DATA\r\n"
		head = "Subject: test\r\n\r\n"
	)
	fill := strings.Repeat("0123456789abcde\r\n", blockSize) // more than one block
	for name, want := range map[string][]string{
		"together":   {mail + rcpt, data},
		"one by one": {mail, rcpt, data},
	} {
		for size, body := range map[string]string{"empty": "", "short": ".\r\n", "a block": fill[:blockSize-len(head)], "long": fill[:3*blockSize]} {
			t.Run(name+", "+size, func(t *testing.T) {
				hop := relaytest.New(t, pipeliners[name])
				c, tapped := openConn(t, hop)
				if err := envelope(t, c, "bob@example.com"); err != nil {
					t.Fatal(err)
				}
				m := relaytest.Stage(t, head+body)
				if _, err := c.data(t.Context(), m); err != nil {
					t.Fatal(err)
				}
				n := len(want)
				if !slices.Equal(tapped.writes[:n], want) {
					t.Errorf("wrote %.80q", tapped.writes)
				}
				if blocks, most := len(tapped.writes)-n, int(m.Size())/blockSize+1; blocks > most {
					t.Errorf("%d bytes in %d writes", m.Size(), blocks)
				}
				if got := hop.Delivered(); len(got) != 1 || !strings.HasPrefix(string(got[0].Data), head+body) {
					t.Errorf("%d delivered, or not as it was", len(got))
				}
			})
		}
	}
}

// If the final dot has not been sent completely, the hop does not have the message, and it
// may be sent to another one. Otherwise it is not known whether the hop has it.
func TestBrokenEndOfData(t *testing.T) {
	for size, body := range map[string]string{"short": "", "long": strings.Repeat("0123456789\r\n", blockSize)} {
		for final, arrived := range map[string]int{"\r\n.\r\n": 0, "": 1} {
			t.Run(fmt.Sprint(size, ", ", arrived), func(t *testing.T) {
				hop := relaytest.New(t, relaytest.Options{})
				hop.Handle(on(".", relaytest.HangUp()))
				c, tapped := openConn(t, hop)
				tapped.final = final
				if err := envelope(t, c, "bob@example.com"); err != nil {
					t.Fatal(err)
				}
				_, err := c.data(t.Context(), relaytest.Stage(t, testMail+body))
				c.raw.Close()
				if err == nil || isRefusal(err) || errors.Is(err, errUncertain) != (arrived > 0) {
					t.Errorf("got %v", err)
				}
				kit.Eventually(t, "the hop is done", func() bool { return hop.Open() == 0 })
				if n := len(hop.Messages()); n != arrived {
					t.Errorf("%d arrived", n)
				}
			})
		}
	}
}

// If a message is not clean, or cannot be read to its end, neither the final dot nor the
// buffered block before it is sent.
func TestUnreadableMessage(t *testing.T) {
	for name, length := range map[string]int{"short": 100, "long": 3 * blockSize} {
		t.Run(name, func(t *testing.T) {
			hop := relaytest.New(t, relaytest.Options{})
			c, tapped := openConn(t, hop)
			if err := envelope(t, c, "bob@example.com"); err != nil {
				t.Fatal(err)
			}
			clean := "Subject: test\r\n\r\n" + strings.Repeat("x", length) + "\r\n"
			_, err := c.data(t.Context(), reopened(t, clean+"a\rb\r\n"))
			c.raw.Close()
			if !errors.Is(err, errUnclean) {
				t.Errorf("got %v", err)
			}
			sent := strings.Join(tapped.writes[2:], "")
			if !strings.HasPrefix(clean, sent) || len(sent) < length-blockSize || length < blockSize && sent != "" {
				t.Errorf("%d bytes left, to the end of %q", len(sent), sent[max(0, len(sent)-40):])
			}
			kit.Eventually(t, "the hop is done", func() bool { return hop.Open() == 0 })
			if len(hop.Messages()) > 0 {
				t.Error("it arrived")
			}
		})
	}
}

// reopened returns a message of bytes that are not cleaned.
func reopened(t testing.TB, text string) *message.Message {
	t.Helper()
	f, err := os.Open(writeFile(t, text, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	m, err := message.NewStage(t.TempDir(), 1<<20).Reopen(f, 0, int64(len(text)), false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// Replies to MAIL and RCPT have the same result whether the commands are sent together or
// not, and the connection stays in step.
const gone = "the connection is of no use"

type repliesTest struct {
	name       string
	mail, rcpt relaytest.Answer
	want       string // empty: accepted
	open       bool   // the sender is accepted
	refusals   int    // as the hop counts them if MAIL and RCPT are sent together
}

func repliesToMailAndRcpt() []repliesTest {
	usual, no, later := relaytest.Usual, relaytest.Say("550 5.7.1 No"), relaytest.Say("450 4.7.1 Later")
	other, bye := relaytest.Say("551-5.7.2 Not", "551 5.7.2 him"), relaytest.Say("421 4.3.2 Bye")
	garbage := relaytest.Raw("hello\r\n")
	return []repliesTest{
		{"yes", usual, usual, "", true, 0},
		{"yes, will forward", usual, relaytest.Say("251 2.1.5 Will forward"), "", true, 0},
		{"recipient refused", usual, no, "550 5.7.1 No", true, 1},
		{"recipient refused for now", usual, later, "450 4.7.1 Later", true, 1},
		{"sender refused", no, usual, "550 5.7.1 No", false, 2},
		{"sender refused for now", later, usual, "450 4.7.1 Later", false, 2},
		{"both refused", no, other, "550 5.7.1 No", false, 2},
		{"sender refused, then 421", no, bye.AndHangUp(), "550 5.7.1 No", false, maxRefusals},
		{"sender refused, recipient not", no, relaytest.Say("250 2.1.5 Ok"), "550 5.7.1 No", false, maxRefusals},
		{"sender refused, then garbage", no, garbage, "550 5.7.1 No", false, maxRefusals},
		{"sender refused, then silence", no, relaytest.Stall(), "550 5.7.1 No", false, maxRefusals},
		{"sender refused, then hung up", no, relaytest.HangUp(), "550 5.7.1 No", false, maxRefusals},
		{"sender refused and hung up", no.AndHangUp(), usual, "550 5.7.1 No", false, maxRefusals},
		{"421 to MAIL", bye, usual, gone, false, 0},
		{"421 to MAIL, and hung up", bye.AndHangUp(), usual, gone, false, 0},
		{"421 to RCPT", usual, bye, gone, false, 0},
		{"hung up at MAIL", relaytest.HangUp(), usual, gone, false, 0},
		{"hung up between", relaytest.Say("250 2.1.0 Ok").AndHangUp(), usual, gone, false, 0},
		{"hung up at RCPT", usual, relaytest.HangUp(), gone, false, 0},
		{"silent at MAIL", relaytest.Stall(), usual, gone, false, 0},
		{"silent at RCPT", usual, relaytest.Stall(), gone, false, 0},
		{"garbage to MAIL", garbage, usual, gone, false, 0},
		{"garbage to RCPT", usual, garbage, gone, false, 0},
		{"half an answer", usual, relaytest.Raw("250 2.1").AndHangUp(), gone, false, 0},
		{"wants a login", relaytest.Say("530 5.7.0 Authentication required"), usual, gone, false, 0},
		{"251 to MAIL", relaytest.Say("251 2.1.5 Will forward"), usual, gone, false, 0},
		{"354 to MAIL", relaytest.Say("354 Go on"), usual, gone, false, 0},
		{"354 to RCPT", usual, relaytest.Say("354 Go on"), gone, false, 0},
	}
}

func TestRepliesToMailAndRcpt(t *testing.T) {
	for _, tt := range repliesToMailAndRcpt() {
		for how, options := range pipeliners {
			t.Run(tt.name+", "+how, func(t *testing.T) {
				t.Parallel()
				hop := relaytest.New(t, options)
				hop.Handle(func(c relaytest.Command) relaytest.Answer {
					return map[string]relaytest.Answer{"MAIL": tt.mail, "RCPT": tt.rcpt}[c.Verb]
				})
				c, _ := openConn(t, hop)
				c.peer.cfg.CommandTimeout = 3 * time.Second // without a reply
				err := envelope(t, c, "bob@example.com")
				switch tt.want {
				case gone:
					wantTemporary(t, err)
					return
				case "":
					if err != nil {
						t.Fatal(err)
					}
				default:
					wantRefusal(t, err, tt.want)
				}
				if c.open != tt.open {
					t.Errorf("the sender is accepted: %v", c.open)
				}
				if n := min(c.refusals, maxRefusals); how == "together" && n != tt.refusals {
					t.Errorf("%d refusals", n)
				}
				if tt.refusals < maxRefusals {
					hop.Handle(nil)
					wantInStep(t, hop, c)
				}
			})
		}
	}
}

// wantInStep makes sure that a message can be sent to one more recipient.
func wantInStep(t *testing.T, hop *relaytest.Hop, c *conn) {
	t.Helper()
	c.peer.cfg.CommandTimeout = Defaults().CommandTimeout
	if err := envelope(t, c, "carol@example.com"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.data(t.Context(), relaytest.Stage(t, testMail)); err != nil {
		t.Fatal(err)
	}
	got := hop.Delivered()
	if len(got) != 1 || got[0].To[len(got[0].To)-1].Address != "carol@example.com" {
		t.Errorf("delivered %+v", got)
	}
}

// After 421 to MAIL, the reply to RCPT is not awaited.
func Test421ToMail(t *testing.T) {
	hop := relaytest.New(t, relaytest.Options{})
	hop.Handle(func(c relaytest.Command) relaytest.Answer {
		return map[string]relaytest.Answer{"MAIL": relaytest.Say("421 4.3.2 Bye"), "RCPT": relaytest.Stall()}[c.Verb]
	})
	c, _ := openConn(t, hop)
	c.peer.cfg.CommandTimeout = time.Hour
	wantTemporary(t, envelope(t, c, "bob@example.com"))
}
