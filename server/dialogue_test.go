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

// TestDialogue plays the files of testdata/dialogue: each one is a conversation
// between a client (C) and the server (S), over real sockets and real TLS, with
// the relay behind the server and a next hop behind that.
//
// A line that begins with "#" is a comment. Options come first:
//
//	@ server.limits.messages = 2          any key of the configuration; also policy.*,
//	@ listener.mode = tls                 auth.*, relay.* and those of the one listener
//	@ hop.extensions = 8BITMIME, DSN      what the next hop offers
//	@ hop says to RCPT bob@example.org = 550 5.1.1 Who?     "|" begins another line;
//	@ hop says to . = (hang up)           the end of data is "."; also (stall)
//	@ hop says to . = (held) 250 Ok       not before the step RELEASE
//
// Then the dialogue, one step a line:
//
//	C: EHLO client.example.org            a line of the client, with CRLF behind it;
//	                                      b64("...") in it stands for its base64
//	C! "no CRLF\x00"                      exactly these bytes
//	C* 3000 "x"                           so many times these bytes
//	DRIBBLE 5ms "NOOP\r\n"                byte by byte
//	S: 250 2.1.0 *                        a line of the server; * is anything
//	S* 3 250 *                            so many such lines
//	S+ 250                                a whole reply, of one line or more
//	HAS SIZE 52428800                     ... in which this keyword stands
//	LACKS AUTH                            ... in which it does not
//	TLS                                   the client's handshake
//	ALERT                                 a TLS alert in clear: a handshake that failed
//	LOGIN alice secret                    from the greeting to the 235 of AUTH
//	MAIL alice@example.org bob@example.org     MAIL and RCPT, with their 250
//	CLOSE, FIN, RST                       close_notify and FIN; only FIN; reset
//	EOF                                   the server has closed
//	WAIT 50ms
//	OPEN second                           another connection; the others stay
//	USE first                             back to another; the first one's name is "first"
//	RELEASE                               the hop says what was held
//	CLIENTS 1                             the server has so many connections
//	SHUTDOWN 5s                           the server is told to stop within that time
//	STOPPED, CUT                          it has, in peace; it has, by force
//
// Lines of the client that stand together are sent together: as one segment, and
// over TLS as one record. And what has become of it:
//
//	HOP 1                                 so many messages have come to the next hop
//	HOP HAS "Subject: x\r\n"              bytes of the last one
//	HOP LACKS "Bcc"
//	HOP BODY "exactly\r\n"                what is behind its empty line
//	HOP HEARD 1 MAIL FROM:<alice@*        so many command lines like this one
//	LOG 1 auth failed*user=alice          so many lines of the log with this in them
//
// In every dialogue the hop takes care that nothing unclean reaches it (a bare
// CR or LF, a NUL), and at its end no goroutine and no staged message is left.
func TestDialogue(t *testing.T) {
	files, err := filepath.Glob("testdata/dialogue/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no dialogues: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			play(t, file)
		})
	}
}

// A dialogue is a script that is being played.
type dialogue struct {
	*stand
	clients map[string]*client
	client  *client
	release func() // the answers of the hop that are held
	stopped chan error
}

func play(t *testing.T, file string) {
	s := readScript(t, file)
	d := &dialogue{stand: newStand(t, s.settings), clients: make(map[string]*client), stopped: make(chan error, 1)}
	d.release = sync.OnceFunc(func() { close(s.release) })
	t.Cleanup(d.release)
	d.hop.Handle(s.handle)
	if err := d.open("first"); err != nil {
		t.Fatal(err)
	}
	defer d.hangUp()
	for _, step := range s.steps {
		if err := d.take(step); err != nil {
			t.Fatalf("%s:%d: %s %s: %v\n%s", file, step.line, step.verb, step.arg, err, d.client.transcript())
		}
	}
	if err := d.client.flush(); err != nil {
		t.Fatal(err)
	}
}

func (d *dialogue) hangUp() {
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
	if talk, ok := talkSteps[s.verb]; ok {
		return talk(d.client, s.arg)
	}
	if do, ok := standSteps[s.verb]; ok {
		return do(d, s.arg)
	}
	return errors.New("no such step")
}

// clientSteps only say what is to be sent.
var clientSteps = map[string]func(*client, string) error{
	"C:": func(c *client, line string) error { c.pending += line + "\r\n"; return nil },
	"C!": (*client).raws,
	"C*": (*client).repeats,
}

// talkSteps are between the client and the server.
var talkSteps = map[string]func(*client, string) error{
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

// standSteps are about everything else.
var standSteps = map[string]func(*dialogue, string) error{
	"WAIT":     func(_ *dialogue, arg string) error { return wait(arg) },
	"OPEN":     (*dialogue).open,
	"USE":      (*dialogue).use,
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
		return fmt.Errorf("%s is there already", name)
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
		return fmt.Errorf("there is no %s", name)
	}
	d.client = d.clients[name]
	return nil
}

// expectClients waits for places that are about to be taken or given back.
func (d *dialogue) expectClients(arg string) error {
	want, err := strconv.Atoi(arg)
	if err != nil {
		return err
	}
	if !kit.Soon(func() bool { return d.server.gate.count()+d.server.unannounced.count() == want }) {
		return errors.New("there is another number of them")
	}
	return nil
}

func (g *gate) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

func (d *dialogue) shutdown(arg string) error {
	limit, err := time.ParseDuration(arg)
	if err != nil {
		return err
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		d.stopped <- d.server.Shutdown(ctx)
	}()
	return nil
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
	if word == "HEARD" {
		return d.expectCommands(rest)
	}
	messages := d.hop.Messages()
	if len(messages) == 0 {
		return errors.New("no message has come")
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
		return errors.New("no such step")
	}
	return nil
}

func (d *dialogue) expectMessages(want int) error {
	if got := len(d.hop.Messages()); got != want {
		return fmt.Errorf("there are %d", got)
	}
	return nil
}

// expectCommands waits for those that are due.
func (d *dialogue) expectCommands(arg string) error {
	count, pattern, _ := strings.Cut(arg, " ")
	want, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	kit.Soon(func() bool { return d.heard(pattern) >= want })
	if n := d.heard(pattern); n != want {
		return fmt.Errorf("there are %d in\n%s", n, strings.Join(d.hop.Commands(), "\n"))
	}
	return nil
}

func (d *dialogue) heard(pattern string) (n int) {
	for _, command := range d.hop.Commands() {
		if _, line, _ := strings.Cut(command, " "); glob(pattern, line) {
			n++
		}
	}
	return n
}

// expectLog waits for lines that are due, which may come after the reply.
func (d *dialogue) expectLog(arg string) error {
	count, pattern, _ := strings.Cut(arg, " ")
	want, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	kit.Soon(func() bool { return d.log.count(pattern) >= want })
	if n := d.log.count(pattern); n != want {
		return fmt.Errorf("there are %d in\n%s", n, strings.Join(d.log.lines(), "\n"))
	}
	return nil
}
