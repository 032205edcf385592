package server

import (
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"postern/internal/netprefix"
	"postern/internal/share"
	"postern/relay"
	"postern/relay/relaytest"
)

// BenchmarkFixHeader puts the header of a message in order, Received included, and reads
// the result.
func BenchmarkFixHeader(b *testing.B) {
	const header = "From: Alice <alice@example.org>\r\nTo: Bob <bob@example.net>, Carol <carol@example.com>\r\n" +
		"Subject: A letter\r\nDate: Tue, 3 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1.2.3@client.example.org>\r\n" +
		"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
	for _, size := range []int{2 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			m := relaytest.Stage(b, header+strings.Repeat("0123456789 0123456789 0123456789\r\n", size/34))
			f, block := testFixUps(), make([]byte, 32<<10)
			b.SetBytes(m.Size())
			b.ReportAllocs()
			for b.Loop() {
				fixed, err := fixHeader(m, f)
				if err != nil {
					b.Fatal(err)
				}
				out := fixed.Reader()
				for err == nil {
					_, err = out.Read(block)
				}
				if err != io.EOF {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkReceived(b *testing.B) {
	t := testTrace()
	b.ReportAllocs()
	for b.Loop() {
		if t.field() == "" {
			b.Fatal("empty")
		}
	}
}

// BenchmarkLogAccepted writes the line of an accepted message.
func BenchmarkLogAccepted(b *testing.B) {
	l := NewLog(slog.New(slog.NewTextHandler(io.Discard, nil))).
		ForSession("5FkQ0aBcDeFg", "submission", netip.MustParseAddr("192.0.2.7"))
	m := MessageEvent{
		ID: "5FkQ0aBcDeFg.1", User: "alice", From: "alice@example.org",
		To: []string{"bob@example.net", "carol@example.com"}, Size: 2048,
	}
	receipt := relay.Receipt{Hop: "smtp://localhost:25", Text: "2.0.0 Ok: queued as 4ZxY1b2c3d"}
	b.ReportAllocs()
	for b.Loop() {
		l.Accepted(m, receipt, 12*time.Millisecond)
	}
}

// BenchmarkConnLimiter is a client that connects, logs in and disconnects.
func BenchmarkConnLimiter(b *testing.B) {
	g, limits, user := new(connLimiter), Defaults().Limits.bounds(true), share.User("", "alice")
	client := netprefix.Client(netip.MustParseAddr("192.0.2.7"))
	b.ReportAllocs()
	for b.Loop() {
		s, _, reason := g.acquire(client, unauthenticated, limits)
		if s == nil {
			b.Fatal(reason)
		}
		s.logIn(user, 50)
		s.release()
	}
}
