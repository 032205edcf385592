package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"postern/relay"
	"postern/relay/message"
	"postern/relay/relaytest"
	"postern/test/kit"
)

func TestMain(m *testing.M) {
	if os.Getenv(crashDir) != "" {
		os.Exit(crashingChild())
	}
	os.Exit(kit.Main(m))
}

// quick is a pace for tests.
func quick() pace {
	return pace{
		workers: 3, scanInterval: 20 * time.Millisecond,
		firstRetry: 20 * time.Millisecond, retryMax: 100 * time.Millisecond,
		hopDownMax: 20 * time.Millisecond, hopDownPause: 10 * time.Millisecond, hopDownPauseMax: 20 * time.Millisecond,
		delayWarning: time.Hour, callTimeout: 10 * time.Second, closeTime: time.Second,
	}
}

// A rig is a spool between a test and a scripted hop.
type rig struct {
	t     testing.TB
	hop   *relaytest.Hop
	route relay.NextHop
	spool *Spool
	front relay.NextHop
	log   kit.LogBuffer
}

// newRig returns a rig that does not deliver yet.
func newRig(t testing.TB, dir string, change func(*Config)) *rig {
	t.Helper()
	return rigFor(t, dir, change, relaytest.New(t, relaytest.Options{}))
}

func rigFor(t testing.TB, dir string, change func(*Config), hop *relaytest.Hop) *rig {
	t.Helper()
	r := &rig{t: t, hop: hop, route: newRoute(t, hop.URL())}
	cfg := Defaults()
	cfg.Dir = dir
	if change != nil {
		change(&cfg)
	}
	var err error
	r.spool, err = Open(cfg, Options{Sizes: Sizes{Total: 1 << 30}, Hostname: "mail.example.org", Events: NewLog(r.log.Logger())})
	if err != nil {
		t.Fatal(err)
	}
	r.spool.pace = quick()
	r.front = r.spool.Before(r.route)
	t.Cleanup(func() { r.close() })
	return r
}

func newRoute(t testing.TB, url string) *relay.Router {
	t.Helper()
	route, err := openRoute(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { route.Close() })
	return route
}

func openRoute(url string) (*relay.Router, error) {
	cfg := relay.Defaults()
	cfg.NextHops = make([]relay.HopURL, 1)
	if err := cfg.NextHops[0].UnmarshalText([]byte(url)); err != nil {
		return nil, err
	}
	cfg.Patience = 30 * time.Millisecond
	cfg.HeloName = "mail.example.org"
	return relay.New(cfg, relay.NewLog(slog.New(slog.DiscardHandler)))
}

func (r *rig) deliver() { r.spool.Deliver(always(r.route), always(r.route)) }

func always(hop relay.NextHop) Acquire {
	return func(string) (relay.NextHop, func()) { return hop, func() {} }
}

func (r *rig) close() {
	if err := r.spool.Close(); err != nil {
		r.t.Error(err)
	}
}

// A mail is what a test submits.
type mail struct {
	from, subject, body string
	options             smtp.MailOptions
	to                  []string
	rcpt                smtp.RcptOptions
	login, listener     string
	users               string
	maySign             bool
	remote              netip.AddrPort
}

func (m mail) text() string {
	return fmt.Sprintf("From: <%s>\r\nSubject: %s\r\n\r\n%s\r\n", m.from, m.subject, m.body)
}

// toBob is a mail to one recipient.
func toBob(subject string) mail {
	return mail{from: "alice@example.org", login: "alice", subject: subject, body: ".hello", to: []string{"bob@example.com"}}
}

func newMessage(text string) (*message.Message, error) {
	w := message.NewStage("", 1<<20).New(message.Options{})
	if _, err := io.WriteString(w, text); err != nil {
		return nil, err
	}
	return w.Message()
}

// submit makes one transaction, as a session does.
func submit(ctx context.Context, hop relay.NextHop, m mail) (relay.Receipt, error) {
	tx, err := hop.Begin(ctx, &relay.Envelope{Session: "s1", Listener: m.listener, Login: m.login, Users: m.users, MaySign: m.maySign, Remote: m.remote, Sender: m.from, Options: m.options})
	if err != nil {
		return relay.Receipt{}, err
	}
	defer tx.Close()
	for _, to := range m.to {
		if err := tx.Rcpt(ctx, to, &m.rcpt); err != nil {
			return relay.Receipt{}, err
		}
	}
	staged, err := newMessage(m.text())
	if err != nil {
		return relay.Receipt{}, err
	}
	defer staged.Close()
	return tx.Send(ctx, staged)
}

// submit makes sure that the mail is accepted.
func (r *rig) submit(m mail) relay.Receipt {
	r.t.Helper()
	receipt, err := submit(context.Background(), r.front, m)
	if err != nil {
		r.t.Fatalf("submit: %v", err)
	}
	return receipt
}

// spooled submits a mail while the hop is down, and returns its id.
func (r *rig) spooled(m mail) string {
	r.t.Helper()
	r.hop.Stop()
	receipt := r.submit(m)
	id, ok := strings.CutPrefix(receipt.Text, "2.0.0 Ok: queued as ")
	if !ok || receipt.Hop != "spool" {
		r.t.Fatalf("not spooled: %+v", receipt)
	}
	r.hop.Start()
	return id
}

// files returns the file names in one of the spool's folders.
func (r *rig) files(sub string) []string {
	r.t.Helper()
	return filesIn(r.t, r.spool.folder.path(sub))
}

func filesIn(t testing.TB, dir string) (names []string) {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		names = append(names, f.Name())
	}
	return names
}

// empty waits until the spool is empty.
func (r *rig) empty() {
	r.t.Helper()
	kit.Eventually(r.t, "the spool is empty", func() bool { return len(r.files(queued)) == 0 })
}

func subjects(all []relaytest.Message) (list []string) {
	for _, m := range all {
		for line := range strings.Lines(string(m.Data)) {
			if s, ok := strings.CutPrefix(line, "Subject: "); ok {
				list = append(list, strings.TrimSpace(s))
				break
			}
		}
	}
	return list
}

func wantReply(t testing.TB, err error, code int) {
	t.Helper()
	var e *smtp.SMTPError
	if !errors.As(err, &e) || e.Code != code {
		t.Errorf("got %v, want %d", err, code)
	}
}
