package smtpd

import (
	"bufio"
	"context"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/emersion/go-smtp"
)

// A benchSession accepts everything and keeps nothing.
type benchSession struct{ Session }

func (benchSession) NewSession(context.Context, *Conn) (Session, *Reply) { return benchSession{}, nil }
func (benchSession) Offer() Offer {
	return Offer{Size: 50 << 20, RcptMax: 1000, DSN: true, UTF8: true, Mechanisms: []string{"PLAIN", "LOGIN"}}
}
func (benchSession) Hello(context.Context, string, bool) *Reply           { return nil }
func (benchSession) Mail(context.Context, Path, *smtp.MailOptions) *Reply { return nil }
func (benchSession) Rcpt(context.Context, Path, *smtp.RcptOptions) *Reply { return nil }
func (benchSession) Data(context.Context, bool) (Body, *Reply)            { return benchBody{}, nil }
func (benchSession) Reset(context.Context, Cause)                         {}
func (benchSession) Refused(Refusal)                                      {}
func (benchSession) Close(error)                                          {}

type benchBody struct{}

func (benchBody) Write(p []byte) (int, error)   { return len(p), nil }
func (benchBody) Commit(context.Context) *Reply { return nil }
func (benchBody) Abort(error) *Reply            { return replyOk }

// benchDialogue sends the commands, each after the reply to the one before, b.N times on
// one connection.
func benchDialogue(b *testing.B, commands ...string) {
	server, client := net.Pipe()
	done := make(chan struct{})
	cfg := testConfig()
	cfg.MaxJunk = 1 << 40
	go func() { defer close(done); Serve(context.Background(), server, cfg, benchSession{}) }()
	in := bufio.NewReader(client)
	read := func() {
		for {
			line, err := in.ReadSlice('\n')
			if err != nil {
				b.Fatal(err)
			}
			if line[3] == ' ' {
				return
			}
		}
	}
	read()
	_, _ = io.WriteString(client, "EHLO client.example\r\n")
	read()
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		for _, command := range commands {
			if _, err := io.WriteString(client, command); err != nil {
				b.Fatal(err)
			}
			read()
		}
	}
	_ = client.Close()
	<-done
}

func BenchmarkMessage(b *testing.B) {
	benchDialogue(b, "MAIL FROM:<alice@example.org> SIZE=2048\r\n", "RCPT TO:<bob@example.com>\r\n", "DATA\r\n",
		strings.Repeat(strings.Repeat("x", 76)+"\r\n", 2048/78)+".\r\n")
}

func BenchmarkLargeMessage(b *testing.B) {
	text := strings.Repeat(strings.Repeat("x", 76)+"\r\n", 1<<20/78) + ".\r\n"
	b.SetBytes(int64(len(text)))
	benchDialogue(b, "MAIL FROM:<alice@example.org>\r\n", "RCPT TO:<bob@example.com>\r\n", "DATA\r\n", text)
}

func BenchmarkEHLO(b *testing.B) { benchDialogue(b, "EHLO client.example\r\n") }
