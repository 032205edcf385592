package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"postern/relay/message"
	"postern/relay/relaytest"
	"postern/test/kit"
)

func TestMain(m *testing.M) {
	kit.AtOnce(8)
	os.Exit(kit.Main(m))
}

// soon is the time limit in tests in which a hop does not reply. A hop that replies is much
// faster.
const soon = 3 * time.Second

const testMail = "From: alice@example.org\r\nSubject: test\r\n\r\n.dots\r\n..\r\nbye\r\n"

// newRouter makes a router for the hops, with a configuration that change may change. It is
// closed at the end of the test.
func newRouter(t testing.TB, change func(*Config), hops ...*relaytest.Hop) *Router {
	t.Helper()
	return newLoggedRouter(t, NewLog(slog.New(slog.DiscardHandler)), change, hops...)
}

func newLoggedRouter(t testing.TB, events Events, change func(*Config), hops ...*relaytest.Hop) *Router {
	t.Helper()
	cfg := Defaults()
	cfg.NextHops = nil
	cfg.HeloName = "postern.example.org"
	for _, h := range hops {
		cfg.NextHops = append(cfg.NextHops, mustURL(t, h.URL()))
	}
	if change != nil {
		change(&cfg)
	}
	cfg.Validate(func(key, why string) { t.Fatalf("%s: %s", key, why) })
	r, err := New(cfg, events)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	r.Probe(t.Context())
	return r
}

func mustURL(t testing.TB, text string) (u HopURL) {
	t.Helper()
	if err := u.UnmarshalText([]byte(text)); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return u
}

// begin begins a transaction of alice, which is closed at the end of the test.
func begin(t testing.TB, r *Router) Transaction {
	t.Helper()
	return beginWith(t, r, &Envelope{Session: "s1", Login: "alice", Sender: "alice@example.org"})
}

func beginWith(t testing.TB, r *Router, e *Envelope) Transaction {
	t.Helper()
	tx, err := r.Begin(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tx.Close() })
	return tx
}

// rcpt makes sure that every recipient is accepted.
func rcpt(t testing.TB, tx Transaction, to ...string) {
	t.Helper()
	for _, address := range to {
		if err := tx.Rcpt(context.Background(), address, nil); err != nil {
			t.Fatalf("RCPT %s: %v", address, err)
		}
	}
}

// deliver makes sure that one message to bob is accepted.
func deliver(t testing.TB, r *Router, m *message.Message) Receipt {
	t.Helper()
	tx := begin(t, r)
	defer tx.Close()
	rcpt(t, tx, "bob@example.com")
	receipt, err := tx.Send(context.Background(), m)
	if err != nil {
		t.Fatalf("send: %v", err)
	}
	return receipt
}

// wantRefusal makes sure that err is a refusal by the hop that begins with want, such as
// "550 5.1.1 No such user".
func wantRefusal(t testing.TB, err error, want string) {
	t.Helper()
	var e *smtp.SMTPError
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want the refusal %q", err, want)
	}
	c := e.EnhancedCode
	got := strings.Join(strings.Fields(fmt.Sprint(e.Code, " ", c[0], ".", c[1], ".", c[2], " ", e.Message)), " ")
	if !strings.HasPrefix(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// wantTemporary makes sure that err is not a refusal by a hop.
func wantTemporary(t testing.TB, err error) {
	t.Helper()
	if err == nil || isRefusal(err) {
		t.Fatalf("got %v, want an error that is no refusal", err)
	}
}

// certificate makes a certificate for localhost and 127.0.0.1, and the file of its CA.
func certificate(t testing.TB) (config *tls.Config, caFile string) {
	t.Helper()
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	ca := kit.NewCA(t, dir)
	ca.Issue(t, 1, cert, key)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}}, ca.File
}

func writeFile(t testing.TB, text string, mode os.FileMode) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
	return name
}

func chmod(t testing.TB, name string, mode uint32) {
	t.Helper()
	if err := os.Chmod(name, os.FileMode(mode)); err != nil {
		t.Fatal(err)
	}
}
