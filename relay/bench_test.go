package relay

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"

	"postern/relay/relaytest"
)

// BenchmarkSend sends a message to one recipient on an existing connection.
func BenchmarkSend(b *testing.B) {
	for _, size := range []int{2 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) { benchmarkSend(b, size, nil) })
	}
}

// BenchmarkSendNew makes a connection for each message.
func BenchmarkSendNew(b *testing.B) {
	benchmarkSend(b, 2<<10, func(cfg *Config) { cfg.Pool.Messages = 1 })
}

func benchmarkSend(b *testing.B, size int, change func(*Config)) {
	r := quietRouter(b, change)
	const header, line = "From: alice@example.org\r\nSubject: test\r\n\r\n", "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd\r\n"
	m := relaytest.Stage(b, header+strings.Repeat(line, size/len(line)))
	e := &Envelope{Session: "s1", Login: "alice", Sender: "alice@example.org"}
	ctx := b.Context()
	b.SetBytes(m.Size())
	b.ReportAllocs()
	for b.Loop() {
		t, err := r.Begin(ctx, e)
		if err != nil {
			b.Fatal(err)
		}
		if err := t.Rcpt(ctx, "bob@example.net", nil); err != nil {
			b.Fatal(err)
		}
		if _, err := t.Send(ctx, m); err != nil {
			b.Fatal(err)
		}
		t.Close()
	}
}

// BenchmarkPool gets a connection and returns it.
func BenchmarkPool(b *testing.B) {
	p := quietRouter(b, nil).hops[0].pool
	b.ReportAllocs()
	for b.Loop() {
		c, err := p.get(context.Background(), "alice", false)
		if err != nil {
			b.Fatal(err)
		}
		p.put(c)
	}
}

// quietRouter has a hop that needs little time: it accepts every message, records nothing,
// and allocates nothing.
func quietRouter(b *testing.B, change func(*Config)) *Router {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serveQuietly(c)
		}
	}()
	cfg := Defaults()
	cfg.NextHops = []HopURL{mustURL(b, "smtp://"+l.Addr().String())}
	if change != nil {
		change(&cfg)
	}
	r, err := New(cfg, NewLog(slog.New(slog.DiscardHandler)))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { r.Close(); l.Close() })
	r.Probe(b.Context())
	return r
}

func serveQuietly(c net.Conn) {
	defer c.Close()
	answers := map[string][]byte{
		"EHLO": []byte("250-hop.example.net\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 DSN\r\n"),
		"MAIL": []byte("250 2.1.0 Ok\r\n"), "RCPT": []byte("250 2.1.5 Ok\r\n"),
		"DATA": []byte("354 Go on\r\n"), ".": []byte("250 2.0.0 Ok: queued as 4ZxY1b2c3d\r\n"),
	}
	in, out := bufio.NewReader(c), bufio.NewWriter(c)
	_, _ = out.WriteString("220 hop.example.net ESMTP\r\n")
	for {
		if in.Buffered() == 0 {
			_ = out.Flush()
		}
		line, err := in.ReadSlice('\n')
		if err != nil || len(line) < 4 {
			return
		}
		answer, known := answers[string(line[:4])]
		data := string(line[:4]) == "DATA"
		if !known {
			return
		}
		_, _ = out.Write(answer)
		if !data {
			continue
		}
		_ = out.Flush()
		if !skipData(in) {
			return
		}
		_, _ = out.Write(answers["."])
	}
}

func skipData(in *bufio.Reader) bool {
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return false
		}
		if string(line) == ".\r\n" {
			return true
		}
	}
}
