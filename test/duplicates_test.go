package test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"postern/test/kit"
)

const suppress = "suppress_duplicates = true"

// A twice is a client whose letter is on its way more than once, between a
// postern and a Postfix.
type twice struct {
	*postern
	t   *testing.T
	hop *postfix
}

func newTwice(t *testing.T, hop *postfix, sections map[string]string) *twice {
	t.Helper()
	return &twice{startPostern(t, posternOptions{NextHop: hop.URL, Sections: sections}), t, hop}
}

// begin goes up to the final dot of the letter, which is not sent.
func (w *twice) begin(c *submitter, mark string, to ...string) {
	w.t.Helper()
	lines := []string{"MAIL FROM:<" + mark + "@example.org>"}
	for _, rcpt := range append(to, "bob@example.net") {
		lines = append(lines, "RCPT TO:<"+rcpt+">")
	}
	if err := c.wantAll(append(lines, "DATA")...); err != nil {
		w.t.Fatal(err)
	}
	if _, err := io.WriteString(c.Conn, letter(mark)); err != nil {
		w.t.Fatal(err)
	}
}

// dot sends the final dot and waits for nothing.
func (w *twice) dot(c *submitter) {
	w.t.Helper()
	if _, err := io.WriteString(c.Conn, ".\r\n"); err != nil {
		w.t.Fatal(err)
	}
}

// lose sends the letter, and waits for the 250 without reading it.
func (w *twice) lose(c *submitter, mark string) {
	w.t.Helper()
	w.begin(c, mark)
	w.dot(c)
	w.logged("msg=accepted", "from="+mark+"@example.org")
}

// deliver sends the letter, and wants a 250, of which it returns the queue id.
func (w *twice) deliver(c *submitter, mark string) string {
	w.t.Helper()
	w.begin(c, mark)
	w.dot(c)
	r, err := c.Ask("")
	id := regexp.MustCompile(`^2\.0\.0 Ok: queued as (\w+)$`).FindStringSubmatch(r.Text)
	if err != nil || r.Code != 250 || id == nil {
		w.t.Fatalf("the end of data got %v, %v", r, err)
	}
	return id[1]
}

// logged waits for a line of postern's with all of words.
func (w *twice) logged(words ...string) {
	w.t.Helper()
	kit.Eventually(w.t, fmt.Sprintf("%q in the log", words), func() bool { return len(w.logLines(words...)) > 0 })
}

// taken wants Postfix to have taken the letter so many times. Its log may be
// behind; what postern says that it was answered is not.
func (w *twice) taken(mark string, want int) {
	w.t.Helper()
	count := func() int { return strings.Count(w.hop.log(), "message-id=<"+mark+"@example.org>") }
	kit.Eventually(w.t, "the letter "+mark+" at Postfix", func() bool { return count() >= want })
	if n, ids := count(), w.queueIDs(mark); n != want || len(ids) != want {
		w.t.Errorf("Postfix has taken %s %d times, as postern knows it %q, want %d", mark, n, ids, want)
	}
}

// queueIDs are those under which postern knows that Postfix has taken the
// letter, late or not. The mark is the sender.
func (w *twice) queueIDs(mark string) (ids []string) {
	for _, line := range w.logLines("accepted", "from="+mark+"@example.org") {
		ids = append(ids, regexp.MustCompile(`queue_id=(\w+)`).FindStringSubmatch(line)[1])
	}
	return ids
}

func tcpOf(c *submitter) *net.TCPConn { return c.Conn.(*tls.Conn).NetConn().(*net.TCPConn) }

// The ways in which a client does not get to see its 250.
var losses = map[string]func(*testing.T, *twice, string){
	"reset": func(t *testing.T, w *twice, mark string) {
		c := w.mustLogin(t, "alice")
		w.lose(c, mark)
		if err := tcpOf(c).SetLinger(0); err != nil {
			t.Fatal(err)
		}
		tcpOf(c).Close()
	},
	"end of the connection": func(t *testing.T, w *twice, mark string) {
		c := w.mustLogin(t, "alice")
		w.lose(c, mark)
		if err := tcpOf(c).CloseWrite(); err != nil {
			t.Fatal(err)
		}
	},
	"silence": func(t *testing.T, w *twice, mark string) {
		line := newLine(t, w.addr(startTLS))
		c := w.mustLoginBy(t, line.Addr)
		w.begin(c, mark)
		line.mute.Store(true)
		w.dot(c)
		w.logged("msg=accepted", "from="+mark+"@example.org")
		tcpOf(c).Close() // it has waited for long enough; nobody tells the server
		time.AfterFunc(time.Second, line.hangUp)
	},
}

// A client that comes again because it has not seen its 250 gets it, with the
// queue id under which Postfix has its letter, once.
func TestLostReplyIsSaidAgain(t *testing.T) {
	t.Parallel()
	s := startSink(t)
	hop := startPostfix(t, s)
	on := newTwice(t, hop, map[string]string{"server": suppress})
	off := newTwice(t, hop, nil)
	for name, lose := range losses {
		mark := strings.ReplaceAll(name, " ", "-")
		t.Run(name, func(t *testing.T) {
			w := &twice{on.postern, t, hop}
			lose(t, w, mark)
			c := w.mustLogin(t, "alice")
			if id, first := w.deliver(c, mark), w.queueIDs(mark); len(first) != 1 || first[0] != id {
				t.Errorf("it was told %s, and was sent as %v", id, first)
			}
			w.taken(mark, 1)
			// Now that one was seen, the next one is meant.
			w.deliver(c, mark)
			w.taken(mark, 2)
		})
		t.Run(name+", suppression off", func(t *testing.T) {
			w := &twice{off.postern, t, hop}
			lose(t, w, "off-"+mark)
			w.deliver(w.mustLogin(t, "alice"), "off-"+mark)
			w.taken("off-"+mark, 2)
		})
	}
}

// Who has seen a 250, or is somebody else, or writes to somebody else, sends
// a letter of his own.
func TestSameLetterOnPurpose(t *testing.T) {
	t.Parallel()
	s := startSink(t)
	w := newTwice(t, startPostfix(t, s), map[string]string{"server": suppress})

	c := w.mustLogin(t, "alice")
	w.deliver(c, "meant")
	w.deliver(c, "meant")
	w.taken("meant", 2)
	if err := c.want(221, "QUIT"); err != nil {
		t.Error(err)
	}
	w.deliver(w.mustLogin(t, "alice"), "meant")
	w.taken("meant", 3)

	losses["reset"](t, w, "others")
	w.deliver(w.mustLogin(t, "bob"), "others")
	w.taken("others", 2)
	c = w.mustLogin(t, "alice")
	w.begin(c, "others", "dave@example.net")
	w.dot(c)
	if err := accepted(c.Ask("")); err != nil {
		t.Error(err)
	}
	w.taken("others", 3)
	w.deliver(c, "others") // the first one at last
	w.taken("others", 3)
	kit.Eventually(t, "the letter to dave", func() bool {
		return strings.Contains(recipients(s.deliveries("<others@")), "dave@example.net")
	})
}

// A reload does not make postern forget.
func TestReceiptsOutliveAReload(t *testing.T) {
	t.Parallel()
	w := newTwice(t, startPostfix(t, startSink(t)), map[string]string{"server": suppress})
	losses["reset"](t, w, "reload")
	w.signal(t, syscall.SIGHUP)
	w.logged("msg=reloaded")
	w.deliver(w.mustLogin(t, "alice"), "reload")
	w.taken("reload", 1)
}

// Postfix thinks about a message for longer than the client, or postern, is
// ready to wait, and says 250 then. Whoever comes again hears of it; with a
// spool, too.
func TestSlowNextHop(t *testing.T) {
	t.Parallel()
	slow := startSlow(t)
	hop := startPostfix(t, startSink(t), "smtpd_end_of_data_restrictions = check_policy_service inet:"+slow.addr)
	spool := openFolder(t)
	kit.Own(t, spool)
	for name, relay := range map[string]string{"alone": "", "spool": fmt.Sprintf("spool = %q\n", spool)} {
		t.Run(name+", the client gives up", func(t *testing.T) {
			w, mark := newTwice(t, hop, map[string]string{"server": suppress, "relay": relay}), "left-"+name
			letGo := slow.hold()
			defer letGo()
			c := w.mustLogin(t, "alice")
			w.begin(c, mark)
			w.dot(c)
			slow.asked(t)
			c.Close()
			again := w.mustLogin(t, "alice")
			w.begin(again, mark)
			w.dot(again)
			letGo()
			if err := accepted(again.Ask("")); err != nil {
				t.Error(err)
			}
			w.taken(mark, 1)
		})
		t.Run(name+", postern gives up", func(t *testing.T) {
			w := newTwice(t, hop, map[string]string{"server": suppress, "relay": relay + `data_timeout = "5s"`})
			mark := "late-" + name
			letGo := slow.hold()
			defer letGo()
			c := w.mustLogin(t, "alice")
			w.begin(c, mark)
			w.dot(c)
			if r, err := c.Ask(""); err != nil || r.Code != 451 {
				t.Fatalf("the end of data got %v, %v, want 451", r, err)
			}
			slow.asked(t)
			letGo()
			w.logged(`msg="accepted late"`)
			w.deliver(w.mustLogin(t, "alice"), mark)
			w.taken(mark, 1)
		})
	}
}

// One message goes to 1,500 recipients in two transactions, since a thousand
// is the limit of one, with the same bytes in both. The 250 of the first is
// lost on the way, and the client begins anew. All of them get it, once.
func TestManyRecipientsInTwoTransactions(t *testing.T) {
	t.Parallel()
	const all, most = 1500, 1000
	s := startSink(t)
	w := newTwice(t, startPostfix(t, s), map[string]string{"server": suppress})
	var to []string
	for n := range all {
		to = append(to, fmt.Sprintf("user%04d@example.net", n))
	}

	c := w.mustLogin(t, "alice")
	w.address(c, to[:most])
	if r, err := c.Ask("RCPT TO:<" + to[most] + ">"); err != nil || r.Code != 452 {
		t.Fatalf("one too many got %v, %v", r, err)
	}
	w.write(c)
	w.logged("msg=accepted", fmt.Sprintf("nrcpt=%d", most))
	tcpOf(c).Close()

	c = w.mustLogin(t, "alice")
	for _, some := range [][]string{to[:most], to[most:]} {
		w.address(c, some)
		w.write(c)
		if err := accepted(c.Ask("")); err != nil {
			t.Fatal(err)
		}
	}
	w.taken("many", 2)
	slices.Sort(to)
	kit.Eventually(t, "the letter to everybody", func() bool {
		return recipients(s.deliveries("<many@")) == strings.Join(to, " ")
	})
}

func (w *twice) address(c *submitter, to []string) {
	w.t.Helper()
	if err := c.want(250, "MAIL FROM:<many@example.org>"); err != nil {
		w.t.Fatal(err)
	}
	for _, rcpt := range to {
		if err := c.want(250, "RCPT TO:<"+rcpt+">"); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *twice) write(c *submitter) {
	w.t.Helper()
	if err := c.want(354, "DATA"); err != nil {
		w.t.Fatal(err)
	}
	if _, err := io.WriteString(c.Conn, letter("many")+".\r\n"); err != nil {
		w.t.Fatal(err)
	}
}

// A line carries one connection, until it carries no more answers, and tells
// neither end when the other has gone.
type line struct {
	Addr   string
	mute   atomic.Bool
	hangUp func() // on the server
}

func newLine(t *testing.T, server string) *line {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	up, err := net.Dial("tcp", server)
	if err != nil {
		t.Fatal(err)
	}
	n := &line{Addr: l.Addr().String(), hangUp: func() { up.Close() }}
	var carrying sync.WaitGroup
	carrying.Go(func() {
		down, err := l.Accept()
		if err != nil {
			return
		}
		defer down.Close()
		carrying.Go(func() { n.answers(down, up) })
		_, _ = io.Copy(up, down)
	})
	t.Cleanup(func() {
		l.Close()
		up.Close()
		carrying.Wait()
	})
	return n
}

// answers carries what the server says.
func (n *line) answers(down, up net.Conn) {
	var buf [4096]byte
	for {
		got, err := up.Read(buf[:])
		if err != nil {
			return
		}
		if !n.mute.Load() {
			_, _ = down.Write(buf[:got])
		}
	}
}

// mustLoginBy is mustLogin by way of addr.
func (p *postern) mustLoginBy(t *testing.T, addr string) *submitter {
	t.Helper()
	conn, err := dialFrom(nil, addr)
	if err != nil {
		t.Fatal(err)
	}
	c, err := p.greet(conn, startTLS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if err := c.want(235, "AUTH PLAIN "+kit.Plain("alice", password)); err != nil {
		t.Fatal(err)
	}
	return c
}

// A slowPolicy is a policy server of Postfix that permits everything, and at
// the end of a message not before it is let go.
type slowPolicy struct {
	addr     string
	question chan struct{}

	mu   sync.Mutex
	held chan struct{}
}

func startSlow(t *testing.T) *slowPolicy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &slowPolicy{addr: l.Addr().String(), question: make(chan struct{}, 100)}
	p.hold()()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(c) // until Postfix ends
		}
	}()
	t.Cleanup(func() { l.Close() })
	return p
}

func (p *slowPolicy) serve(c net.Conn) {
	defer c.Close()
	for lines := bufio.NewScanner(c); lines.Scan(); {
		if lines.Text() != "" { // the end of a question
			continue
		}
		p.question <- struct{}{}
		p.mu.Lock()
		held := p.held
		p.mu.Unlock()
		<-held
		_, _ = io.WriteString(c, "action=dunno\n\n")
	}
}

// hold has every question wait until letGo.
func (p *slowPolicy) hold() (letGo func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	held := make(chan struct{})
	p.held = held
	return sync.OnceFunc(func() { close(held) })
}

// asked waits until a question has come.
func (p *slowPolicy) asked(t *testing.T) {
	t.Helper()
	select {
	case <-p.question:
	case <-time.After(time.Minute):
		t.Fatal("Postfix has asked nothing")
	}
}
