package server

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/test/kit"
)

// TestDialogue runs the files of testdata/dialogue. Each one is a conversation
// between a client (C) and the server (S), over real sockets and real TLS, with
// the relay and a next hop.
//
// A line that begins with "#" is a comment. Options come first:
//
//	@ server.limits.messages = 2          any key of the configuration; also policy.*,
//	@ listener.mode = tls                 auth.*, relay.* and those of the one listener
//	@ hop.extensions = 8BITMIME, DSN      what the next hop offers
//	@ hop replies to RCPT bob@example.org = 550 5.1.1 Who?  "|" begins another line;
//	@ hop replies to . = (hang up)        the end of data is "."; also (stall)
//	@ hop replies to . = (held) 250 Ok    not before the step RELEASE
//
// Then the steps, one a line:
//
//	C: EHLO client.example.org            send a line, with CRLF;
//	                                      b64("...") in it becomes base64
//	C! "no CRLF\x00"                      send exactly these octets
//	C* 3000 "x"                           send these octets so many times
//	DRIBBLE 5ms "NOOP\r\n"                send octet by octet
//	S: 250 2.1.0 *                        receive a line; * is any text
//	S* 3 250 *                            receive so many such lines
//	S+ 250                                receive a reply of one line or more
//	HAS SIZE 52428800                     ... that has this EHLO keyword
//	LACKS AUTH                            ... that does not
//	TLS                                   the client's handshake
//	ALERT                                 receive a TLS alert in clear: a handshake that failed
//	LOGIN alice secret                    from the greeting to the 235 of AUTH
//	MAIL alice@example.org bob@example.org     MAIL and RCPT, with their 250
//	CLOSE, FIN, RST                       end the connection: close_notify and FIN; only FIN; reset
//	EOF                                   the server has closed the connection; the client closes it, too
//	WAIT 50ms
//	OPEN second                           open another connection; the others stay open
//	USE first                             go on with another one; the name of the first is "first"
//	STAGED                                wait until the server has received a part of a message
//	ASKED                                 wait until the store is asked for the password of "slow"
//	ANSWER                                the store answers about "slow", now and from now on
//	RELEASE                               the hop sends the replies that were held
//	CLIENTS 1                             wait until the server has so many connections
//	SHUTDOWN 5s                           begin a shutdown with that time limit, and wait until
//	                                      all connections have been asked to end
//	STOPPED, CUT                          wait until it has ended: in time; by force
//
// Consecutive lines of the client are sent together: as one segment, and over TLS as
// one record. Then there are the results:
//
//	HOP 1                                 the number of messages that the next hop has
//	HOP HAS "Subject: x\r\n"              octets of the last one
//	HOP LACKS "Bcc"
//	HOP BODY "exactly\r\n"                the whole body of the last one
//	HOP GOT 1 MAIL FROM:<alice@*          the number of commands like this one
//	LOG 1 auth failed*user=alice          the number of log lines that contain this
//
// In every dialogue the hop fails the test for a message that is not clean (a bare
// CR or LF, a NUL), and when all have ended, there must be no goroutine and no staged
// message left.
func TestDialogue(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/dialogue/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("found no dialogues: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			play(t, file)
		})
	}
}

// A dialogue is a script in execution.
type dialogue struct {
	*testServer
	clients map[string]*client
	client  *client
	release func() // sends the held replies of the hop
	stopped <-chan error
}

func play(t *testing.T, file string) {
	s := readScript(t, file)
	d := &dialogue{testServer: newTestServer(t, s.settings), clients: make(map[string]*client)}
	d.release = sync.OnceFunc(func() { close(s.release) })
	t.Cleanup(d.release)
	d.hop.Handle(s.handle)
	if err := d.open("first"); err != nil {
		t.Fatal(err)
	}
	defer d.closeAll()
	for _, step := range s.steps {
		if err := d.take(step); err != nil {
			t.Fatalf("%s:%d: %s %s: %v\n%s", file, step.line, step.verb, step.arg, err, d.client.transcript())
		}
	}
	if err := d.client.flush(); err != nil {
		t.Fatal(err)
	}
}

func (d *dialogue) closeAll() {
	for _, c := range d.clients {
		_ = c.raw.Close()
	}
}

func (d *dialogue) take(s step) error {
	if send, ok := clientSteps[s.verb]; ok {
		return send(d.client, s.arg)
	}
	if err := d.client.flush(); err != nil {
		return err
	}
	if run, ok := wireSteps[s.verb]; ok {
		return run(d.client, s.arg)
	}
	if run, ok := serverSteps[s.verb]; ok {
		return run(d, s.arg)
	}
	return errors.New("unknown step")
}

// clientSteps add to what is sent next.
var clientSteps = map[string]func(*client, string) error{
	"C:": func(c *client, line string) error { c.pending += line + "\r\n"; return nil },
	"C!": (*client).sendRaw,
	"C*": (*client).sendRepeated,
}

// wireSteps send or receive.
var wireSteps = map[string]func(*client, string) error{
	"S:":      (*client).expectLine,
	"S*":      (*client).expectLines,
	"S+":      (*client).expectReply,
	"HAS":     (*client).expectKeyword,
	"LACKS":   (*client).expectNoKeyword,
	"DRIBBLE": (*client).dribble,
	"TLS":     func(c *client, _ string) error { return c.startTLS() },
	"ALERT":   func(c *client, _ string) error { return c.expectAlert() },
	"LOGIN":   (*client).login,
	"MAIL":    (*client).mail,
	"CLOSE":   func(c *client, _ string) error { return c.closeWrite() },
	"FIN":     func(c *client, _ string) error { return c.raw.CloseWrite() },
	"RST":     func(c *client, _ string) error { return c.reset() },
	"EOF":     func(c *client, _ string) error { return c.expectEOF() },
}

// serverSteps are all others.
var serverSteps = map[string]func(*dialogue, string) error{
	"WAIT":     func(_ *dialogue, arg string) error { return wait(arg) },
	"OPEN":     (*dialogue).open,
	"USE":      (*dialogue).use,
	"STAGED":   (*dialogue).waitStaged,
	"ASKED":    (*dialogue).waitAsked,
	"ANSWER":   func(d *dialogue, _ string) error { d.users.answer(); return nil },
	"RELEASE":  func(d *dialogue, _ string) error { d.release(); return nil },
	"CLIENTS":  (*dialogue).expectClients,
	"SHUTDOWN": (*dialogue).shutdown,
	"STOPPED":  func(d *dialogue, _ string) error { return d.expectStop(nil) },
	"CUT":      func(d *dialogue, _ string) error { return d.expectStop(context.DeadlineExceeded) },
	"HOP":      (*dialogue).expectHop,
	"LOG":      (*dialogue).expectLog,
}

func wait(arg string) error {
	pause, err := time.ParseDuration(arg)
	time.Sleep(pause)
	return err
}

func (d *dialogue) open(name string) error {
	if d.clients[name] != nil {
		return fmt.Errorf("connection %s exists already", name)
	}
	c, err := dial(d.address(), d.parts.Listeners[0].Mode)
	if err != nil {
		return err
	}
	d.clients[name], d.client = c, c
	return nil
}

func (d *dialogue) use(name string) error {
	if d.clients[name] == nil {
		return fmt.Errorf("there is no connection %s", name)
	}
	d.client = d.clients[name]
	return nil
}

// expectClients waits for connections that begin or end at the moment.
func (d *dialogue) expectClients(arg string) error {
	want, err := strconv.Atoi(arg)
	if err != nil {
		return err
	}
	if !kit.Soon(func() bool { return d.server.limiter.count()+d.server.proxyPending.count() == want }) {
		return fmt.Errorf("there are %d", d.server.limiter.count()+d.server.proxyPending.count())
	}
	return nil
}

// waitStaged waits for octets of a message, which the server receives after the client
// has sent them.
func (d *dialogue) waitStaged(string) error {
	if !kit.Soon(func() bool { return d.parts.Stage.InMemory() > 0 }) {
		return errors.New("the server has received no message")
	}
	return nil
}

func (d *dialogue) waitAsked(string) error {
	select {
	case <-d.users.asked:
		return nil
	case <-time.After(patience):
		return errors.New("the store was not asked")
	}
}

func (d *dialogue) shutdown(arg string) error {
	limit, err := time.ParseDuration(arg)
	if err != nil {
		return err
	}
	d.stopped, err = d.beginShutdown(limit)
	return err
}

func (d *dialogue) expectStop(want error) error {
	select {
	case err := <-d.stopped:
		if !errors.Is(err, want) {
			return fmt.Errorf("Shutdown returned %v", err)
		}
		return nil
	case <-time.After(patience):
		return errors.New("Shutdown has not returned")
	}
}

func (d *dialogue) expectHop(arg string) error {
	word, rest, _ := strings.Cut(arg, " ")
	if n, err := strconv.Atoi(word); err == nil {
		return d.expectMessages(n)
	}
	if word == "GOT" {
		return d.expectCommands(rest)
	}
	messages := d.hop.Messages()
	if len(messages) == 0 {
		return errors.New("the hop has received no message")
	}
	last := string(messages[len(messages)-1].Data)
	_, body, _ := strings.Cut(last, "\r\n\r\n")
	want, err := strconv.Unquote(rest)
	switch {
	case err != nil:
		return err
	case word == "BODY" && body != want:
		return fmt.Errorf("it is %q", body)
	case word == "HAS" && !strings.Contains(last, want), word == "LACKS" && strings.Contains(last, want):
		return fmt.Errorf("the message is\n%s", last)
	case word != "BODY" && word != "HAS" && word != "LACKS":
		return errors.New("unknown step")
	}
	return nil
}

func (d *dialogue) expectMessages(want int) error {
	if got := len(d.hop.Messages()); got != want {
		return fmt.Errorf("there are %d", got)
	}
	return nil
}

// expectCommands waits for commands that the relay may send after the client has its
// reply.
func (d *dialogue) expectCommands(arg string) error {
	count, pattern, _ := strings.Cut(arg, " ")
	want, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	kit.Soon(func() bool { return d.countCommands(pattern) >= want })
	if n := d.countCommands(pattern); n != want {
		return fmt.Errorf("there are %d in\n%s", n, strings.Join(d.hop.Commands(), "\n"))
	}
	return nil
}

func (d *dialogue) countCommands(pattern string) (n int) {
	for _, command := range d.hop.Commands() {
		if _, line, _ := strings.Cut(command, " "); kit.Glob(pattern, line) {
			n++
		}
	}
	return n
}

// expectLog waits for lines that the server may write after the client has its reply.
func (d *dialogue) expectLog(arg string) error {
	count, pattern, _ := strings.Cut(arg, " ")
	want, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	kit.Soon(func() bool { return d.log.Count(pattern) >= want })
	if n := d.log.Count(pattern); n != want {
		return fmt.Errorf("there are %d in\n%s", n, strings.Join(d.log.Lines(), "\n"))
	}
	return nil
}
