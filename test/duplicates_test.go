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

// A resender is a client that sends a message more than once, with a postern and a
// Postfix.
type resender struct {
	*postern
	t   *testing.T
	hop *postfix
}

func newResender(t *testing.T, hop *postfix, sections map[string]string) *resender {
	t.Helper()
	return &resender{startPostern(t, posternOptions{NextHop: hop.URL, Sections: sections}), t, hop}
}

// begin sends the message without the final dot.
func (w *resender) begin(c *submitter, mark string, to ...string) {
	w.t.Helper()
	lines := []string{"MAIL FROM:<" + mark + "@example.org>"}
	for _, rcpt := range append(to, "bob@example.net") {
		lines = append(lines, "RCPT TO:<"+rcpt+">")
	}
	kit.Must(w.t, c.wantAll(append(lines, "DATA")...))
	if _, err := io.WriteString(c.Conn, letter(mark)); err != nil {
		w.t.Fatal(err)
	}
}

// dot sends the final dot and does not wait for the reply.
func (w *resender) dot(c *submitter) {
	w.t.Helper()
	if _, err := io.WriteString(c.Conn, ".\r\n"); err != nil {
		w.t.Fatal(err)
	}
}

// lose sends the message, and waits for the 250 without reading it.
func (w *resender) lose(c *submitter, mark string) {
	w.t.Helper()
	w.begin(c, mark)
	w.dot(c)
	w.awaitLog("msg=accepted", "from="+mark+"@example.org")
}

// deliver sends the message, which must get 250, and returns the queue id.
func (w *resender) deliver(c *submitter, mark string) string {
	w.t.Helper()
	w.begin(c, mark)
	w.dot(c)
	r, err := c.Ask("")
	id := regexp.MustCompile(`^2\.0\.0 Ok: queued as (\w+)$`).FindStringSubmatch(r.Text)
	if err != nil || r.Code != 250 || id == nil {
		w.t.Fatalf("end of data: got %v, %v", r, err)
	}
	return id[1]
}

// awaitLog waits for a log line of postern that contains all words.
func (w *resender) awaitLog(words ...string) {
	w.t.Helper()
	kit.Eventually(w.t, fmt.Sprintf("%q in the log", words), func() bool { return len(w.logged(words...)) > 0 })
}

// wantCopies checks how often Postfix has accepted the message: by Postfix's log, which may
// be late, and by the replies that postern has logged.
func (w *resender) wantCopies(mark string, want int) {
	w.t.Helper()
	count := func() int { return strings.Count(w.hop.log(), "message-id=<"+mark+"@example.org>") }
	kit.Eventually(w.t, "Postfix to accept "+mark, func() bool { return count() >= want })
	if n, ids := count(), w.queueIDs(mark); n != want || len(ids) != want {
		w.t.Errorf("Postfix has accepted %s %d times, and postern has logged %q, want %d", mark, n, ids, want)
	}
}

// queueIDs returns the queue ids of the message that postern has logged, late or not. The
// mark is the sender.
func (w *resender) queueIDs(mark string) (ids []string) {
	for _, line := range w.logged("accepted", "from="+mark+"@example.org") {
		ids = append(ids, regexp.MustCompile(`queue_id=(\w+)`).FindStringSubmatch(line)[1])
	}
	return ids
}

func tcpOf(c *submitter) *net.TCPConn { return c.Conn.(*tls.Conn).NetConn().(*net.TCPConn) }

// The ways in which a client does not receive its 250.
var losses = map[string]func(*testing.T, *resender, string){
	"reset": func(t *testing.T, w *resender, mark string) {
		c := w.mustLogin(t, "alice")
		w.lose(c, mark)
		kit.Must(t, tcpOf(c).SetLinger(0))
		tcpOf(c).Close()
	},
	"end of the connection": func(t *testing.T, w *resender, mark string) {
		c := w.mustLogin(t, "alice")
		w.lose(c, mark)
		kit.Must(t, tcpOf(c).CloseWrite())
	},
	"silence": func(t *testing.T, w *resender, mark string) {
		link := newLossyLink(t, w.addr(startTLS))
		c := w.mustLoginBy(t, link.Addr)
		w.begin(c, mark)
		link.mute.Store(true)
		w.dot(c)
		w.awaitLog("msg=accepted", "from="+mark+"@example.org")
		tcpOf(c).Close() // the server does not notice
		time.AfterFunc(time.Second, link.closeServerSide)
	},
}

// A client that did not receive its 250 and sends the message again gets 250 with the queue
// id of the first copy, and Postfix has the message once.
func TestLostReplyIsRepeated(t *testing.T) {
	t.Parallel()
	s := startSink(t)
	hop := startPostfix(t, s)
	on := newResender(t, hop, map[string]string{"server": suppress})
	off := newResender(t, hop, nil)
	for name, lose := range losses {
		mark := strings.ReplaceAll(name, " ", "-")
		t.Run(name, func(t *testing.T) {
			w := &resender{on.postern, t, hop}
			lose(t, w, mark)
			c := w.mustLogin(t, "alice")
			if id, first := w.deliver(c, mark), w.queueIDs(mark); len(first) != 1 || first[0] != id {
				t.Errorf("the client got %s, and Postfix has %v", id, first)
			}
			w.wantCopies(mark, 1)
			// The client has received this reply: the next copy is a new message.
			w.deliver(c, mark)
			w.wantCopies(mark, 2)
		})
		t.Run(name+", suppression off", func(t *testing.T) {
			w := &resender{off.postern, t, hop}
			lose(t, w, "off-"+mark)
			w.deliver(w.mustLogin(t, "alice"), "off-"+mark)
			w.wantCopies("off-"+mark, 2)
		})
	}
}

// A message is new if its client has received 250 for the last one, if it comes from
// another user, or if it goes to other recipients.
func TestSameMessageOnPurpose(t *testing.T) {
	t.Parallel()
	s := startSink(t)
	w := newResender(t, startPostfix(t, s), map[string]string{"server": suppress})

	c := w.mustLogin(t, "alice")
	w.deliver(c, "meant")
	w.deliver(c, "meant")
	w.wantCopies("meant", 2)
	if err := c.want(221, "QUIT"); err != nil {
		t.Error(err)
	}
	w.deliver(w.mustLogin(t, "alice"), "meant")
	w.wantCopies("meant", 3)

	losses["reset"](t, w, "others")
	w.deliver(w.mustLogin(t, "bob"), "others")
	w.wantCopies("others", 2)
	c = w.mustLogin(t, "alice")
	w.begin(c, "others", "dave@example.net")
	w.dot(c)
	if err := accepted(c.Ask("")); err != nil {
		t.Error(err)
	}
	w.wantCopies("others", 3)
	w.deliver(c, "others") // repeats the first one
	w.wantCopies("others", 3)
	kit.Eventually(t, "the message to dave", func() bool {
		return strings.Contains(recipients(s.deliveries("<others@")), "dave@example.net")
	})
}

// A reload keeps the receipts.
func TestReceiptsSurviveReload(t *testing.T) {
	t.Parallel()
	w := newResender(t, startPostfix(t, startSink(t)), map[string]string{"server": suppress})
	losses["reset"](t, w, "reload")
	w.signal(t, syscall.SIGHUP)
	w.awaitLog("msg=reloaded")
	w.deliver(w.mustLogin(t, "alice"), "reload")
	w.wantCopies("reload", 1)
}

// Postfix needs longer for its reply than the client, or postern, waits, and then replies
// 250. A client that sends the message again gets that 250; with a spool, too.
func TestSlowNextHop(t *testing.T) {
	t.Parallel()
	slow := startSlowPolicy(t)
	hop := startPostfix(t, startSink(t), "smtpd_end_of_data_restrictions = check_policy_service inet:"+slow.addr)
	spool := kit.OpenDir(t)
	kit.Own(t, spool)
	for name, relay := range map[string]string{"alone": "", "spool": fmt.Sprintf("spool = %q\n", spool)} {
		t.Run(name+", the client gives up", func(t *testing.T) {
			w, mark := newResender(t, hop, map[string]string{"server": suppress, "relay": relay}), "left-"+name
			release := slow.hold()
			defer release()
			c := w.mustLogin(t, "alice")
			w.begin(c, mark)
			w.dot(c)
			slow.awaitRequest(t)
			c.Close()
			again := w.mustLogin(t, "alice")
			w.begin(again, mark)
			w.dot(again)
			release()
			if err := accepted(again.Ask("")); err != nil {
				t.Error(err)
			}
			w.wantCopies(mark, 1)
		})
		t.Run(name+", postern gives up", func(t *testing.T) {
			w := newResender(t, hop, map[string]string{"server": suppress, "relay": relay + `data_timeout = "5s"`})
			mark := "late-" + name
			release := slow.hold()
			defer release()
			c := w.mustLogin(t, "alice")
			w.begin(c, mark)
			w.dot(c)
			if r, err := c.Ask(""); err != nil || r.Code != 451 {
				t.Fatalf("end of data: got %v, %v, want 451", r, err)
			}
			slow.awaitRequest(t)
			release()
			w.awaitLog(`msg="accepted late"`)
			w.deliver(w.mustLogin(t, "alice"), mark)
			w.wantCopies(mark, 1)
		})
	}
}

// One message goes to 1,500 recipients in two transactions with the same bytes, since the
// limit of one is 1,000. The 250 of the first is lost and the client starts again. Every
// recipient gets the message once.
func TestManyRecipientsInTwoTransactions(t *testing.T) {
	t.Parallel()
	const all, limit = 1500, 1000
	s := startSink(t)
	w := newResender(t, startPostfix(t, s), map[string]string{"server": suppress})
	var to []string
	for n := range all {
		to = append(to, fmt.Sprintf("user%04d@example.net", n))
	}

	c := w.mustLogin(t, "alice")
	w.address(c, to[:limit])
	if r, err := c.Ask("RCPT TO:<" + to[limit] + ">"); err != nil || r.Code != 452 {
		t.Fatalf("recipient 1001: got %v, %v, want 452", r, err)
	}
	w.write(c)
	w.awaitLog("msg=accepted", fmt.Sprintf("nrcpt=%d", limit))
	tcpOf(c).Close()

	c = w.mustLogin(t, "alice")
	for _, some := range [][]string{to[:limit], to[limit:]} {
		w.address(c, some)
		w.write(c)
		kit.Must(t, accepted(c.Ask("")))
	}
	w.wantCopies("many", 2)
	slices.Sort(to)
	kit.Eventually(t, "the message to all recipients", func() bool {
		return recipients(s.deliveries("<many@")) == strings.Join(to, " ")
	})
}

func (w *resender) address(c *submitter, to []string) {
	w.t.Helper()
	kit.Must(w.t, c.want(250, "MAIL FROM:<many@example.org>"))
	for _, rcpt := range to {
		kit.Must(w.t, c.want(250, "RCPT TO:<"+rcpt+">"))
	}
}

func (w *resender) write(c *submitter) {
	w.t.Helper()
	kit.Must(w.t, c.want(354, "DATA"))
	if _, err := io.WriteString(c.Conn, letter("many")+".\r\n"); err != nil {
		w.t.Fatal(err)
	}
}

// A lossyLink forwards one connection. It drops the replies when mute is set, and does not
// close one side when the other is closed.
type lossyLink struct {
	Addr            string
	mute            atomic.Bool
	closeServerSide func()
}

func newLossyLink(t *testing.T, server string) *lossyLink {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	kit.Must(t, err)
	up, err := net.Dial("tcp", server)
	kit.Must(t, err)
	n := &lossyLink{Addr: l.Addr().String(), closeServerSide: func() { up.Close() }}
	var forwarding sync.WaitGroup
	forwarding.Go(func() {
		down, err := l.Accept()
		if err != nil {
			return
		}
		defer down.Close()
		forwarding.Go(func() { n.forwardReplies(down, up) })
		_, _ = io.Copy(up, down)
	})
	t.Cleanup(func() {
		l.Close()
		up.Close()
		forwarding.Wait()
	})
	return n
}

// forwardReplies forwards what the server sends, unless mute is set.
func (n *lossyLink) forwardReplies(down, up net.Conn) {
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

// mustLoginBy is mustLogin through addr.
func (p *postern) mustLoginBy(t *testing.T, addr string) *submitter {
	t.Helper()
	conn, err := dialFrom(nil, addr)
	kit.Must(t, err)
	c, err := p.greet(conn, startTLS)
	kit.Must(t, err)
	t.Cleanup(c.Close)
	kit.Must(t, c.want(235, "AUTH PLAIN "+kit.Plain("alice", password)))
	return c
}

// A slowPolicy is a policy server for Postfix that permits everything. While it is held, it
// does not reply.
type slowPolicy struct {
	addr    string
	request chan struct{}

	mu   sync.Mutex
	held chan struct{}
}

func startSlowPolicy(t *testing.T) *slowPolicy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	kit.Must(t, err)
	p := &slowPolicy{addr: l.Addr().String(), request: make(chan struct{}, 100)}
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
		if lines.Text() != "" { // an empty line ends a request
			continue
		}
		p.request <- struct{}{}
		p.mu.Lock()
		held := p.held
		p.mu.Unlock()
		<-held
		_, _ = io.WriteString(c, "action=dunno\n\n")
	}
}

// hold makes every request wait until release is called.
func (p *slowPolicy) hold() (release func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	held := make(chan struct{})
	p.held = held
	return sync.OnceFunc(func() { close(held) })
}

// awaitRequest waits for a request.
func (p *slowPolicy) awaitRequest(t *testing.T) {
	t.Helper()
	select {
	case <-p.request:
	case <-time.After(time.Minute):
		t.Fatal("no request of Postfix")
	}
}
