package relay

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/emersion/go-smtp"

	"postern/relay/message"
	"postern/relay/relaytest"
)

// A tap is the way to a hop. It notes each write, and cuts off the last byte of
// the one that ends with final.
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
	t.Cleanup(c.drop)
	tapped := &tap{Conn: c.wire.Conn}
	c.wire.Conn = tapped
	return c, tapped
}

// tell names a sender and a recipient on c.
func tell(t testing.TB, c *conn, to string) error {
	t.Helper()
	if !c.open {
		if err := c.mail(t.Context(), "alice@example.org", &smtp.MailOptions{}); err != nil {
			return err
		}
	}
	return c.rcpt(t.Context(), recipient{address: to})
}

// A short message goes out in one piece with its end.
func TestWrites(t *testing.T) {
	want := []string{"MAIL FROM:<alice@example.org> BODY=8BITMIME\r\n", "RCPT TO:<bob@example.com>\r\n", "DATA\r\n"}
	const head = "Subject: test\r\n\r\n"
	fill := strings.Repeat("0123456789abcde\r\n", blockSize) // more than one block
	for size, body := range map[string]string{"empty": "", "short": ".\r\n", "a block": fill[:blockSize-len(head)], "long": fill[:3*blockSize]} {
		t.Run(size, func(t *testing.T) {
			hop := relaytest.New(t, relaytest.Options{})
			c, tapped := openConn(t, hop)
			if err := tell(t, c, "bob@example.com"); err != nil {
				t.Fatal(err)
			}
			m := newMessage(t, head+body)
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

// If the final dot has not left as a whole, the hop does not have the message,
// and another one may get it. If it has, nobody knows.
func TestBrokenEndOfData(t *testing.T) {
	for size, body := range map[string]string{"short": "", "long": strings.Repeat("0123456789\r\n", blockSize)} {
		for final, arrived := range map[string]int{"\r\n.\r\n": 0, "": 1} {
			t.Run(fmt.Sprint(size, ", ", arrived), func(t *testing.T) {
				hop := relaytest.New(t, relaytest.Options{})
				hop.Handle(on(".", relaytest.HangUp()))
				c, tapped := openConn(t, hop)
				tapped.final = final
				if err := tell(t, c, "bob@example.com"); err != nil {
					t.Fatal(err)
				}
				_, err := c.data(t.Context(), newMessage(t, text+body))
				c.drop()
				if err == nil || isRefusal(err) || errors.Is(err, errUncertain) != (arrived > 0) {
					t.Errorf("got %v", err)
				}
				eventually(t, "the hop is done", func() bool { return hop.Open() == 0 })
				if n := len(hop.Messages()); n != arrived {
					t.Errorf("%d arrived", n)
				}
			})
		}
	}
}

// A message that turns out to be unclean, or that cannot be read to its end,
// gets no final dot, and what is held back of it never leaves.
func TestUnreadableMessage(t *testing.T) {
	for name, length := range map[string]int{"short": 100, "long": 3 * blockSize} {
		t.Run(name, func(t *testing.T) {
			hop := relaytest.New(t, relaytest.Options{})
			c, tapped := openConn(t, hop)
			if err := tell(t, c, "bob@example.com"); err != nil {
				t.Fatal(err)
			}
			clean := "Subject: test\r\n\r\n" + strings.Repeat("x", length) + "\r\n"
			_, err := c.data(t.Context(), reopened(t, clean+"a\rb\r\n"))
			c.drop()
			if !errors.Is(err, errUnclean) {
				t.Errorf("got %v", err)
			}
			sent := strings.Join(tapped.writes[3:], "")
			if !strings.HasPrefix(clean, sent) || len(sent) < length-blockSize || length < blockSize && sent != "" {
				t.Errorf("%d bytes left, to the end of %q", len(sent), sent[max(0, len(sent)-40):])
			}
			eventually(t, "the hop is done", func() bool { return hop.Open() == 0 })
			if len(hop.Messages()) > 0 {
				t.Error("it arrived")
			}
		})
	}
}

// reopened is a message of bytes that nobody looks at.
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
