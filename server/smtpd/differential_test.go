//go:build !race

// The server of go-smtp has a data race between a BDAT message that has ended and the
// next one, so test/run.sh runs this file without the race detector.

package smtpd

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// FuzzDifferential plays one stream of valid commands to this server and to that of
// go-smtp, and compares the reply codes, and the messages that were accepted. The
// sessions of both accept everything that is in order.
//
// Left out is what go-smtp does differently, on purpose or by its design:
//
//   - A bad sequence of commands is 502 there, and 503 here (RFC 5321, section
//     4.1.4); DATA and BDAT without a recipient in a transaction are 554 here.
//     The test maps these codes.
//   - A nested MAIL is the session's to refuse there.
//   - A DATA command that is refused; a BDAT chunk that is refused, and those after
//     it (RFC 3030, section 2); a malformed BDAT.
//   - Unknown commands, of which the fourth ends the connection there; SIZE above
//     2^32; parameters that occur twice, or in forms that only one of the two takes;
//     addresses without a domain, and other lenient forms.
//   - AUTH without EHLO, in a transaction and a second time; malformed responses.
//   - STARTTLS, limits, timeouts, enhanced codes and texts.
//   - A line of a message that ends with CR CR LF: go-smtp does not find the final dot
//     after it.
func FuzzDifferential(f *testing.F) {
	f.Add([]byte{0, 2, 7, 13, 14, 3})
	f.Add([]byte{0, 1, 2, 2, 7, 8, 9, 15, 16, 17, 13, 5, 2, 7, 18, 4})
	f.Add([]byte{2, 7, 13, 0, 7, 13, 15, 2, 13, 15, 7, 0, 2})
	f.Add([]byte{0, 19, 2, 7, 16, 5, 7, 2, 7, 15, 2, 7, 17, 6, 10, 11, 12})
	for i := range differentialSteps {
		f.Add([]byte{0, byte(i), 2, byte(i), 7, byte(i), 15, byte(i), 17, 4})
	}
	f.Fuzz(func(t *testing.T, program []byte) {
		if len(program) > 60 {
			program = program[:60]
		}
		ours, theirs := playOurs(program), playTheirs(program)
		if ours != theirs {
			t.Fatalf("%q\nhere:\n%s\ngo-smtp:\n%s", program, ours, theirs)
		}
	})
}

// A differentialStep is sent after the replies to the one before.
type differentialStep struct {
	command string
	message string // sent after 354
	chunk   bool   // BDAT
}

var differentialSteps = []differentialStep{
	{command: "EHLO client.example"},
	{command: "helo client.example"},
	{command: "MAIL FROM:<a@b.example>"},
	{command: "NOOP"},
	{command: "QUIT"},
	{command: "RSET"},
	{command: "VRFY a"},
	{command: "RCPT TO:<c@d.example>"},
	{command: "rcpt to:<\"c d\"@d.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;c+2Bd@d.example"},
	{command: "RCPT TO:<@e.example:c@[127.0.0.1]> NOTIFY=never"},
	{command: "MAIL FROM:<> BODY=8BITMIME SIZE=100"},
	{command: "MAIL FROM:<a@b.example> RET=HDRS ENVID=x+2By SMTPUTF8 AUTH=<>"},
	{command: "mail from:<u\u00f6@b.example> SMTPUTF8 BODY=7bit"},
	{command: "DATA", message: "Subject: x\r\n\r\n..\r\n.a\r\nb\n.c\r\n\r\n.\r\n"},
	{command: "DATA", message: ".\r\n"},
	{command: "BDAT 4\r\n.\r\nx", chunk: true},
	{command: "BDAT 0\r\n", chunk: true},
	{command: "BDAT 6 LAST\r\nNOOP\r\n", chunk: true},
	{command: "bdat 0 last\r\n", chunk: true},
	{command: "AUTH PLAIN AGEAYg=="},
	{command: "AUTH PLAIN"},
	{command: "EXPN x"},
}

// talk plays the program to a server, and returns the codes, after mapping.
func talk(conn net.Conn, program []byte) string {
	var out strings.Builder
	_ = conn.SetReadDeadline(time.Now().Add(time.Minute)) // as good as never
	in := bufio.NewReader(conn)
	reply := func() string {
		for {
			line, err := in.ReadString('\n')
			if err != nil || len(line) < 4 {
				return ""
			}
			if line[3] == ' ' {
				return line[:3]
			}
		}
	}
	write := func(text string) { go func() { _, _ = io.WriteString(conn, text) }() }
	reply() // the greeting
	var state dialogState
	for _, b := range program {
		step := differentialSteps[int(b)%len(differentialSteps)]
		if state.leavesOut(step) {
			continue
		}
		if step.chunk {
			write(step.command)
		} else {
			write(step.command + "\r\n")
		}
		code := reply()
		if code == "502" && !strings.HasPrefix(step.command, "EXPN") || code == "554" {
			code = "503"
		}
		fmt.Fprintf(&out, "%s %.12q\n", code, step.command)
		switch code {
		case "":
			return out.String()
		case "354":
			write(step.message)
			fmt.Fprintf(&out, "%s end of data\n", reply())
		case "334":
			write("AGEAYg==\r\n")
			fmt.Fprintf(&out, "%s response\n", reply())
		}
		if state.after(step, code); code == "221" {
			return out.String()
		}
	}
	return out.String()
}

// A dialogState is what decides whether a step is left out.
type dialogState struct{ hello, auth, mail bool }

func (s *dialogState) leavesOut(step differentialStep) bool {
	switch strings.ToUpper(step.command[:4]) {
	case "MAIL":
		return s.mail
	case "AUTH":
		return !s.hello || s.auth || s.mail
	}
	return false
}

func (s *dialogState) after(step differentialStep, code string) {
	switch verb := strings.ToUpper(step.command[:4]); {
	case verb == "EHLO" || verb == "HELO":
		s.hello, s.mail = true, false
	case verb == "AUTH":
		s.auth = true
	case verb == "RSET", code == "354", code == "250" && strings.Contains(strings.ToUpper(step.command), "LAST"):
		s.mail = false
	case verb == "MAIL" && code == "250":
		s.mail = true
	}
}

func playOurs(program []byte) string {
	server, client := net.Pipe()
	cfg := testConfig()
	cfg.MaxErrors, cfg.MaxJunk = 1000, 1000
	s := &differentialSession{testSession: testSession{offer: Offer{DSN: true, UTF8: true, Size: 10_000, Mechanisms: []string{"PLAIN"}}}}
	s.next = func(_ context.Context, response []byte) ([]byte, *Reply) {
		if response == nil {
			return nil, nil
		}
		return nil, replyAuthenticated
	}
	done := make(chan struct{})
	go func() { defer close(done); Serve(context.Background(), server, cfg, s) }()
	codes := talk(client, program)
	_ = client.Close()
	<-done
	return codes + strings.Join(s.messages, "\n")
}

// A differentialSession keeps the messages that were committed.
type differentialSession struct {
	testSession
	messages []string
}

func (s *differentialSession) NewSession(_ context.Context, c *Conn) (Session, *Reply) {
	s.conn = c
	s.commit = func(context.Context) *Reply {
		s.messages = append(s.messages, fmt.Sprintf("%q", s.body.String()))
		return nil
	}
	return s, nil
}

func playTheirs(program []byte) string {
	server, client := net.Pipe()
	backend := &theirBackend{}
	s := smtp.NewServer(backend)
	s.Domain, s.AllowInsecureAuth, s.MaxMessageBytes = "mail.example.org", true, 10_000
	s.EnableDSN, s.EnableSMTPUTF8 = true, true
	s.ErrorLog = quietLog{}
	l := &oneConn{conn: server, done: make(chan struct{})}
	served := make(chan struct{})
	go func() { defer close(served); _ = s.Serve(l) }()
	codes := talk(client, program)
	_ = client.Close()
	_ = s.Close()
	<-served
	return codes + strings.Join(backend.messages, "\n")
}

type quietLog struct{}

func (quietLog) Printf(string, ...any) {}
func (quietLog) Println(...any)        {}

// A oneConn is a listener for one connection.
type oneConn struct {
	conn net.Conn
	done chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	<-l.done
	return nil, net.ErrClosed
}
func (l *oneConn) Close() error   { close(l.done); return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

type theirBackend struct{ messages []string }

func (b *theirBackend) NewSession(*smtp.Conn) (smtp.Session, error) { return b, nil }
func (b *theirBackend) AuthMechanisms() []string                    { return []string{"PLAIN"} }
func (b *theirBackend) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(string, string, string) error { return nil }), nil
}
func (b *theirBackend) Mail(string, *smtp.MailOptions) error { return nil }
func (b *theirBackend) Rcpt(string, *smtp.RcptOptions) error { return nil }
func (b *theirBackend) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	if err == nil {
		b.messages = append(b.messages, fmt.Sprintf("%q", text))
	}
	return err
}
func (b *theirBackend) Reset()        {}
func (b *theirBackend) Logout() error { return nil }
