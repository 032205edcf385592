package test

import (
	"bufio"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern/test/kit"
)

// The client reads Postfix's own 250, with the queue id under which the
// message is in Postfix's log.
func TestQueueIDReachesTheClient(t *testing.T) {
	t.Parallel()
	s := startSink(t)
	hop := startPostfix(t, s)
	p := startPostern(t, posternOptions{NextHop: hop.URL})
	r, err := p.mustLogin(t, "alice").submit(letter("queue-id"), "alice@example.org", "bob@example.net")
	if err != nil {
		t.Fatal(err)
	}
	id := regexp.MustCompile(`^2\.0\.0 Ok: queued as (\w+)$`).FindStringSubmatch(r.Text)
	if r.Code != 250 || id == nil {
		t.Fatalf("the end of data got %v", r)
	}
	logged := id[1] + ": message-id=<queue-id@example.org>"
	kit.Eventually(t, "Postfix to log "+logged, func() bool { return strings.Contains(hop.log(), logged) })
	if len(p.logLines(id[1])) == 0 {
		t.Errorf("postern has not logged the queue id %s", id[1])
	}
}

// One recipient of three is refused in Postfix's own words; the others get
// the message.
func TestOneRecipientRefused(t *testing.T) {
	t.Parallel()
	s := startSink(t)
	hop := startPostfix(t, s, refuseRecipients)
	p := startPostern(t, posternOptions{NextHop: hop.URL})
	c := p.mustLogin(t, "alice")
	if err := c.wantAll("MAIL FROM:<alice@example.org>", "RCPT TO:<bob@example.net>"); err != nil {
		t.Fatal(err)
	}
	refused, err := c.Ask("RCPT TO:<nobody@refused.example.net>")
	if err != nil {
		t.Fatal(err)
	}
	if own := hop.refusal(t, "nobody@refused.example.net"); refused != own {
		t.Errorf("the client got\n%v, Postfix says\n%v", refused, own)
	}
	if err := c.wantAll("RCPT TO:<carol@example.com>", "DATA"); err != nil {
		t.Fatal(err)
	}
	if err := accepted(c.finish(letter("two-of-three"))); err != nil {
		t.Fatal(err)
	}
	kit.Eventually(t, "both recipients at the sink", func() bool {
		return recipients(s.deliveries("two-of-three")) == "bob@example.net carol@example.com"
	})
}

// refuseRecipients makes Postfix refuse everybody at one domain.
const refuseRecipients = `smtpd_recipient_restrictions = check_recipient_access inline:{
 { refused.example.net = 550 5.1.1 Nobody of that name } }`

// refusal is what Postfix itself says to a recipient.
func (p *postfix) refusal(t *testing.T, rcpt string) kit.Reply {
	t.Helper()
	c := p.dial(t)
	if err := c.wantAll("", "EHLO client.example.org", "MAIL FROM:<alice@example.org>"); err != nil {
		t.Fatal(err)
	}
	r, err := c.Ask("RCPT TO:<" + rcpt + ">")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// recipients are those of all copies, sorted.
func recipients(copies []delivery) string {
	var all []string
	for _, d := range copies {
		all = append(all, d.To...)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// Postfix is down for ten seconds. A client that has its recipients accepted
// already, and one that comes meanwhile, still get their 250.
func TestPostfixRestart(t *testing.T) {
	t.Parallel()
	s := startSink(t)
	hop := startPostfix(t, s)
	p := startPostern(t, posternOptions{NextHop: hop.URL})
	early, late := p.mustLogin(t, "alice"), p.mustLogin(t, "bob")
	if err := early.wantAll("MAIL FROM:<alice@example.org>", "RCPT TO:<carol@example.net>", "DATA"); err != nil {
		t.Fatal(err)
	}
	hop.stop(t)
	answers := make(chan error)
	go func() { answers <- accepted(early.finish(letter("restart-early"))) }()
	go func() {
		answers <- accepted(late.submit(letter("restart-late"), "bob@example.org", "carol@example.net"))
	}()
	time.Sleep(10 * time.Second)
	hop.start(t)
	for range 2 {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	s.wait(t, "<restart-early@")
	s.wait(t, "<restart-late@")
}

// accepted turns a reply other than 250 into an error.
func accepted(r kit.Reply, err error) error {
	if err == nil && r.Code != 250 {
		err = fmt.Errorf("got %v, want 250", r)
	}
	return err
}

// Postfix's smtpd dies while it thinks about a message that it has in full.
// Nobody can know what became of it, so the client is asked to come again.
func TestHopDiesBeforeItsAnswer(t *testing.T) {
	t.Parallel()
	thinking, asked := startThinker(t)
	hop := startPostfix(t, startSink(t), "smtpd_end_of_data_restrictions = check_policy_service inet:"+thinking)
	p := startPostern(t, posternOptions{NextHop: hop.URL})
	c := p.mustLogin(t, "alice")
	answer := make(chan kit.Reply)
	go func() {
		r, err := c.submit(letter("hop-dies"), "alice@example.org", "bob@example.net")
		if err != nil {
			r = kit.Reply{Text: err.Error()}
		}
		answer <- r
	}()
	select {
	case <-asked:
		killAll(t, hop.daemons(t, "smtpd"))
	case r := <-answer:
		t.Fatalf("answered too early: %v", r)
	}
	if r := <-answer; r.Code != 451 || !strings.HasPrefix(r.Text, "4.") {
		t.Errorf("the end of data got %v, want 451 4.x.x", r)
	}
}

// startThinker is a policy server for Postfix that says when it is asked, and
// then nothing.
func startThinker(t *testing.T) (addr string, asked <-chan struct{}) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan struct{}, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		lines := bufio.NewScanner(c)
		for lines.Scan() {
			if lines.Text() == "protocol_state=END-OF-MESSAGE" {
				told <- struct{}{}
			}
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return l.Addr().String(), told
}

func killAll(t *testing.T, pids []int) {
	t.Helper()
	if len(pids) == 0 {
		t.Fatal("there is no process to kill")
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
			t.Fatal(err)
		}
	}
}

// Postfix is reached in every way that a next hop can be written.
func TestWaysToTheHop(t *testing.T) {
	t.Parallel()
	s := startSink(t)
	hop := startPostfix(t, s)
	for i, url := range []string{
		"smtp://" + hop.Addr,
		"smtp+starttls://" + hop.Addr,
		"smtps://" + hop.tls,
		"smtp+unix://" + hop.socket(t),
	} {
		t.Run(url[:strings.Index(url, ":")], func(t *testing.T) {
			t.Parallel()
			p := startPostern(t, posternOptions{
				NextHop:  url,
				Sections: map[string]string{"relay": fmt.Sprintf("ca_file = %q", hop.CAFile)},
			})
			mark := fmt.Sprintf("way-%d", i)
			r, err := p.mustLogin(t, "alice").submit(letter(mark), "alice@example.org", "bob@example.net")
			if err := accepted(r, err); err != nil {
				t.Error(err)
			}
			s.wait(t, "<"+mark+"@")
		})
	}
}
