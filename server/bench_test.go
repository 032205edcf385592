package server

import (
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"postern/relay"
)

// BenchmarkFixHeader is what is done to the header of a message, Received
// included, and its way out through the view that comes of it.
func BenchmarkFixHeader(b *testing.B) {
	const header = "From: Alice <alice@example.org>\r\nTo: Bob <bob@example.net>, Carol <carol@example.com>\r\n" +
		"Subject: A letter\r\nDate: Tue, 3 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1.2.3@client.example.org>\r\n" +
		"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
	for _, size := range []int{2 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			m := stageText(b, header+strings.Repeat("0123456789 0123456789 0123456789\r\n", size/34))
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

// BenchmarkMailLog is the line of a message that was accepted.
func BenchmarkMailLog(b *testing.B) {
	l := newMailLog(slog.New(slog.NewTextHandler(io.Discard, nil))).
		forSession("5FkQ0aBcDeFg", "submission", netip.MustParseAddr("192.0.2.7"))
	t := &transaction{
		id:         "5FkQ0aBcDeFg.1",
		envelope:   &relay.Envelope{Login: "alice", Sender: "alice@example.org"},
		recipients: []string{"bob@example.net", "carol@example.com"},
	}
	receipt := relay.Receipt{Hop: "smtp://localhost:25", Text: "2.0.0 Ok: queued as 4ZxY1b2c3d"}
	b.ReportAllocs()
	for b.Loop() {
		l.accepted(t, 2048, receipt, 12*time.Millisecond)
	}
}

// BenchmarkConnectionGate is a client that comes, logs in and leaves.
func BenchmarkConnectionGate(b *testing.B) {
	g, limits := new(gate), Defaults().Limits
	client := clientPrefix(netip.MustParseAddr("192.0.2.7"))
	b.ReportAllocs()
	for b.Loop() {
		t, reason := g.enter(client, limits)
		if t == nil {
			b.Fatal(reason)
		}
		t.admit()
		t.remember()
		t.leave()
	}
}
