package smtpd

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"postern/test/kit"
)

// A testSession accepts everything, and notes the calls. The functions replace its
// answers.
type testSession struct {
	conn *Conn

	mu    sync.Mutex
	calls []string
	body  bytes.Buffer // of the last message

	hello  func() *Reply
	rcpt   func(ctx context.Context) *Reply
	data   func(ctx context.Context) *Reply
	write  func() error
	commit func(ctx context.Context) *Reply
	next   func(ctx context.Context, response []byte) ([]byte, *Reply)
	offer  Offer
}

func (s *testSession) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, fmt.Sprintf(format, args...))
}

// count is how many calls begin with prefix.
func (s *testSession) count(prefix string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, call := range s.calls {
		if strings.HasPrefix(call, prefix) {
			n++
		}
	}
	return n
}

func (s *testSession) has(t *testing.T, calls ...string) {
	t.Helper()
	for _, call := range calls {
		if s.count(call) != 1 {
			t.Errorf("%q was called %d times in %q", call, s.count(call), s.calls)
		}
	}
}

func (s *testSession) NewSession(_ context.Context, c *Conn) (Session, *Reply) {
	s.conn = c
	return s, nil
}
func (s *testSession) Offer() Offer { return s.offer }
func (s *testSession) Hello(_ context.Context, name string, extended bool) *Reply {
	s.note("hello %s %v", name, extended)
	if s.hello != nil {
		return s.hello()
	}
	return nil
}
func (s *testSession) Auth(_ context.Context, mechanism string) (Exchange, *Reply) {
	s.note("auth %s", mechanism)
	return &testExchange{s}, nil
}
func (s *testSession) Mail(_ context.Context, from Path, _ *smtp.MailOptions) *Reply {
	s.note("mail %s", from)
	return nil
}
func (s *testSession) Rcpt(ctx context.Context, to Path, _ *smtp.RcptOptions) *Reply {
	s.note("rcpt %s", to)
	if s.rcpt != nil {
		return s.rcpt(ctx)
	}
	return nil
}
func (s *testSession) Data(ctx context.Context, bdat bool) (Body, *Reply) {
	s.note("data %v", bdat)
	if s.data != nil {
		if r := s.data(ctx); r != nil {
			return nil, r
		}
	}
	s.body.Reset()
	return &testBody{s}, nil
}
func (s *testSession) Reset(_ context.Context, why Cause) { s.note("reset %d", why) }
func (s *testSession) Refused(r Refusal) {
	s.note("refused %s %q %d", r.Verb, r.Argument, r.Reply.Code)
}
func (s *testSession) Close(reason error) { s.note("close %v", reason) }

type testBody struct{ *testSession }

func (b *testBody) Write(p []byte) (int, error) {
	if b.write != nil {
		if err := b.write(); err != nil {
			return 0, err
		}
	}
	return b.body.Write(p)
}
func (b *testBody) Commit(ctx context.Context) *Reply {
	b.note("commit")
	if b.commit != nil {
		return b.commit(ctx)
	}
	return nil
}
func (b *testBody) Abort(err error) *Reply {
	b.note("abort %v", err)
	return NewReply(451, smtp.EnhancedCode{4, 3, 0}, "aborted")
}

var replyAuthenticated = NewReply(235, smtp.EnhancedCode{2, 7, 0}, "Authentication successful")

type testExchange struct{ *testSession }

func (x *testExchange) Next(ctx context.Context, response []byte) ([]byte, *Reply) {
	x.note("next %q", response)
	if x.next != nil {
		return x.next(ctx, response)
	}
	return nil, replyAuthenticated
}
func (x *testExchange) Close(reason error) { x.note("end %v", reason) }

func testConfig() *Config {
	return &Config{
		Hostname: "mail.example.org", MaxErrors: 20, MaxJunk: 100, MaxOvershoot: 1000, MaxLine: 16 << 10,
		PreAuth: Timeouts{Command: time.Minute, Data: time.Minute}, Normal: Timeouts{Command: 5 * time.Minute, Data: 3 * time.Minute},
		LoginTime: 3 * time.Minute, ReplyTime: 110 * time.Second, WriteTime: time.Minute, RefuseTime: 5 * time.Second,
	}
}

// A peer is the client of a test.
type peer struct {
	t  *testing.T
	in *bufio.Reader
	net.Conn
	served chan struct{} // closed when Serve has returned
}

// begin serves one end of a pipe in memory, and returns the other after the greeting.
func begin(t *testing.T, cfg *Config, s *testSession) *peer {
	t.Helper()
	server, client := net.Pipe()
	return beginOn(t, server, client, cfg, s)
}

func beginOn(t *testing.T, server, client net.Conn, cfg *Config, s *testSession) *peer {
	t.Helper()
	p := &peer{t: t, in: bufio.NewReader(client), Conn: client, served: make(chan struct{})}
	go func() {
		defer close(p.served)
		Serve(context.Background(), server, cfg, s)
	}()
	t.Cleanup(func() { _ = client.Close(); <-p.served })
	p.expect("220")
	return p
}

// send writes without waiting for the server to read.
func (p *peer) send(text string) {
	go func() { _, _ = io.WriteString(p.Conn, text) }()
}

// expect reads replies of these codes, and returns the last line of the last.
func (p *peer) expect(codes ...string) (last string) {
	p.t.Helper()
	for _, code := range codes {
		for {
			line, err := p.in.ReadString('\n')
			if err != nil || !strings.HasPrefix(line, code) || len(line) < 4 {
				p.t.Fatalf("%q, %v; want %s", line, err, code)
			}
			last = strings.TrimRight(line, "\r\n")
			if line[3] == ' ' {
				break
			}
		}
	}
	return last
}

// say sends a line and expects replies of these codes.
func (p *peer) say(line string, codes ...string) string {
	p.t.Helper()
	p.send(line + "\r\n")
	return p.expect(codes...)
}

func (p *peer) expectEnd() {
	p.t.Helper()
	if rest, err := io.ReadAll(p.in); len(rest) > 0 || err != nil && !errors.Is(err, io.ErrClosedPipe) {
		p.t.Fatalf("%q, %v; want the end", rest, err)
	}
	<-p.served
}

func (p *peer) mail() {
	p.t.Helper()
	p.say("EHLO client", "250")
	p.say("MAIL FROM:<a@b.example>", "250")
	p.say("RCPT TO:<c@d.example>", "250")
}

func serverTLS(t testing.TB) *tls.Config {
	t.Helper()
	return &tls.Config{Certificates: []tls.Certificate{kit.Certificate{Hosts: []string{"mail.example.org"}}.SelfSigned(t)}}
}

// A limitedSession is a session that may only do what a health check does.
type limitedSession struct {
	testSession
	reply *Reply
}

func (s *limitedSession) NewSession(ctx context.Context, c *Conn) (Session, *Reply) {
	c.LimitCommands(s.reply)
	return s.testSession.NewSession(ctx, c)
}

// reader has the replies read from the connection as it is now.
func (p *peer) reader() { p.in = bufio.NewReader(p.Conn) }
