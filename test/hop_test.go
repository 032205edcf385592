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

// The client gets the text of Postfix's 250, with the queue id that is in Postfix's log.
func TestQueueIDReachesTheClient(t *testing.T) {
	t.Parallel()
	s := startSink(t)
	hop := startPostfix(t, s)
	p := startPostern(t, posternOptions{NextHop: hop.URL})
	r, err := p.mustLogin(t, "alice").submit(letter("queue-id"), "alice@example.org", "bob@example.net")
	kit.Must(t, err)
	id := regexp.MustCompile(`^2\.0\.0 Ok: queued as (\w+)$`).FindStringSubmatch(r.Text)
	if r.Code != 250 || id == nil {
		t.Fatalf("end of data: got %v", r)
	}
	logged := id[1] + ": message-id=<queue-id@example.org>"
	kit.Eventually(t, "Postfix to log "+logged, func() bool { return strings.Contains(hop.log(), logged) })
	if len(p.logged(id[1])) == 0 {
		t.Errorf("no log line with the queue id %s", id[1])
	}
}

// Postfix refuses one recipient of three. The client gets Postfix's reply, and the other
// two get the message.
func TestOneRecipientRefused(t *testing.T) {
	t.Parallel()
	s := startSink(t)
	hop := startPostfix(t, s, refuseRecipients)
	p := startPostern(t, posternOptions{NextHop: hop.URL})
	c := p.mustLogin(t, "alice")
	kit.Must(t, c.wantAll("MAIL FROM:<alice@example.org>", "RCPT TO:<bob@example.net>"))
	refused, err := c.Ask("RCPT TO:<nobody@refused.example.net>")
	kit.Must(t, err)
	if own := hop.refusal(t, "nobody@refused.example.net"); refused != own {
		t.Errorf("the client got\n%v, Postfix replies\n%v", refused, own)
	}
	kit.Must(t, c.wantAll("RCPT TO:<carol@example.com>", "DATA"))
	kit.Must(t, accepted(c.finish(letter("two-of-three"))))
	kit.Eventually(t, "the message to reach both recipients", func() bool {
		return recipients(s.deliveries("two-of-three")) == "bob@example.net carol@example.com"
	})
}

// refuseRecipients makes Postfix refuse all recipients of one domain.
const refuseRecipients = `smtpd_recipient_restrictions = check_recipient_access inline:{
 { refused.example.net = 550 5.1.1 No such user } }`

// refusal returns the reply of Postfix to a recipient.
func (p *postfix) refusal(t *testing.T, rcpt string) kit.Reply {
	t.Helper()
	c := p.dial(t)
	kit.Must(t, c.wantAll("", "EHLO client.example.org", "MAIL FROM:<alice@example.org>"))
	r, err := c.Ask("RCPT TO:<" + rcpt + ">")
	kit.Must(t, err)
	return r
}

// recipients returns the recipients of all copies, sorted.
func recipients(copies []delivery) string {
	var all []string
	for _, d := range copies {
		all = append(all, d.To...)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// Postfix is down for ten seconds. A client whose recipients were accepted before, and
// one that starts a transaction meanwhile, both get 250.
func TestPostfixRestart(t *testing.T) {
	t.Parallel()
	s := startSink(t)
	hop := startPostfix(t, s)
	p := startPostern(t, posternOptions{NextHop: hop.URL})
	early, late := p.mustLogin(t, "alice"), p.mustLogin(t, "bob")
	kit.Must(t, early.wantAll("MAIL FROM:<alice@example.org>", "RCPT TO:<carol@example.net>", "DATA"))
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

// Postfix's smtpd is killed after it has received a message in full and before it
// replies. The result is unknown, so the client gets 451.
func TestHopKilledBeforeItsReply(t *testing.T) {
	t.Parallel()
	policy, asked := startSilentPolicy(t)
	hop := startPostfix(t, startSink(t), "smtpd_end_of_data_restrictions = check_policy_service inet:"+policy)
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
		t.Fatalf("reply before the end of data: %v", r)
	}
	if r := <-answer; r.Code != 451 || !strings.HasPrefix(r.Text, "4.") {
		t.Errorf("end of data: got %v, want 451 4.x.x", r)
	}
}

// startSilentPolicy starts a policy server for Postfix that never replies. It sends to
// asked when it gets a request at the end of a message.
func startSilentPolicy(t *testing.T) (addr string, asked <-chan struct{}) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	kit.Must(t, err)
	requests := make(chan struct{}, 1)
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
				requests <- struct{}{}
			}
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return l.Addr().String(), requests
}

func killAll(t *testing.T, pids []int) {
	t.Helper()
	if len(pids) == 0 {
		t.Fatal("no process to kill")
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
			t.Fatal(err)
		}
	}
}

// postern reaches Postfix with every scheme of next_hops.
func TestNextHopSchemes(t *testing.T) {
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
			mark := fmt.Sprintf("scheme-%d", i)
			r, err := p.mustLogin(t, "alice").submit(letter(mark), "alice@example.org", "bob@example.net")
			if err := accepted(r, err); err != nil {
				t.Error(err)
			}
			s.wait(t, "<"+mark+"@")
		})
	}
}

// Postfix is down for longer than relay.patience. The client gets 250, and Postfix gets
// the message once when it is up again. All of this works inside the sandbox. The tests
// of relay/spool show what survives a kill.
func TestSpoolWithPostfix(t *testing.T) {
	t.Parallel()
	folder := kit.OpenDir(t)
	kit.Own(t, folder)
	s := startSink(t)
	hop := startPostfix(t, s)
	p := startPostern(t, posternOptions{
		NextHop:  hop.URL,
		Sections: map[string]string{"relay": fmt.Sprintf("patience = \"1s\"\nspool = %q", folder)},
	})
	hop.stop(t)
	c := p.mustLogin(t, "alice")
	kit.Must(t, accepted(c.submit(letter("spooled"), "alice@example.org", "carol@example.net")))
	list := p.command(t, "queue", "list", "--config", p.file("config.toml"))
	if out, err := list.CombinedOutput(); err != nil || !strings.Contains(string(out), "<alice@example.org>") {
		t.Errorf("queue list: %v\n%s", err, out)
	}
	hop.start(t)
	if d := s.wait(t, "<spooled@"); d.From != "alice@example.org" {
		t.Errorf("sender %q", d.From)
	}
	kit.Eventually(t, "an empty spool", func() bool {
		out, err := p.command(t, "queue", "list", "--config", p.file("config.toml")).Output()
		return err == nil && !strings.Contains(string(out), "alice@example.org")
	})
}
