package test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/emersion/go-smtp"

	"postern/relay"
	"postern/relay/message"
	"postern/relay/sign"
)

// dkimKeys is one key of each kind, and the DNS server that publishes them.
type dkimKeys struct {
	keys []sign.Key
	dns  string
}

// newDKIMKeys makes keys for example.org that postern can read.
func newDKIMKeys(t *testing.T) *dkimKeys {
	t.Helper()
	peer(t, "root", "unshare", "python3-dkim")
	dir := openFolder(t)
	k := &dkimKeys{}
	zone := map[string]string{}
	for _, a := range []sign.Algorithm{sign.RSA, sign.Ed25519} {
		key := sign.Key{Domain: "example.org", Selector: string(a), File: filepath.Join(dir, string(a)+".pem")}
		public, err := sign.GenerateKey(key.File, a)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(key.File, nobody, nobody); err != nil {
			t.Fatal(err)
		}
		record, err := sign.TXTRecord(key.Domain, key.Selector, public)
		if err != nil {
			t.Fatal(err)
		}
		zone[record.Name+"."] = record.Text
		k.keys = append(k.keys, key)
	}
	k.dns = startDNS(t, zone)
	return k
}

// tables are the keys as lines of the configuration.
func (k *dkimKeys) tables() string {
	var b strings.Builder
	for _, key := range k.keys {
		fmt.Fprintf(&b, "[[relay.dkim]]\ndomain = %q\nselector = %q\nkey = %q\n", key.Domain, key.Selector, key.File)
	}
	return b.String()
}

// verify asks somebody else's verifier, which prints the algorithm of each
// good signature and fails at the first bad one.
func (k *dkimKeys) verify(t *testing.T, message []byte) (string, error) {
	t.Helper()
	cmd := withDNS(t, k.dns, python, filepath.Join("testdata", "verify.py"))
	cmd.Stdin = bytes.NewReader(message)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

const bothAlgorithms = "ed25519-sha256\nrsa-sha256"

// A catcher is a hop that keeps what it is sent.
type catcher struct{ message []byte }

func (c *catcher) Begin(context.Context, *relay.Envelope) (relay.Transaction, error) { return c, nil }
func (c *catcher) Caps() relay.Caps                                                  { return relay.Caps{} }
func (c *catcher) Rcpt(context.Context, string, *smtp.RcptOptions) error             { return nil }
func (c *catcher) Close() error                                                      { return nil }

func (c *catcher) Send(_ context.Context, m *message.Message) (relay.Receipt, error) {
	var err error
	c.message, err = io.ReadAll(m.Reader())
	return relay.Receipt{}, err
}

// sign runs a message through the stage and the signer.
func (k *dkimKeys) sign(t *testing.T, text string) []byte {
	t.Helper()
	m := staged(t, text)
	hop := &catcher{}
	signer, err := sign.New(k.keys, sign.NewLog(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	tx, err := signer.Before(hop).Begin(ctx, &relay.Envelope{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Send(ctx, m); err != nil {
		t.Fatal(err)
	}
	return hop.message
}

var dkimLetters = []struct{ name, text string }{
	{"plain", letter("plain")},
	{"empty body", "From: alice@example.org\r\n\r\n"},
	{"blank lines at the end", letter("blank") + " \r\n" + strings.Repeat("\r\n", 3000)},
	{"8-bit body", letter("8-bit") + "Gr\xc3\xbc\xc3\x9fe \xff\r\n.\r\n"},
	{"folded header", "To: bob@example.net,\r\n\t carol@example.com \r\nSubject:  a  b\r\n \t c\r\n" + letter("folded")},
	{"repeated header", "Cc: bob@example.net\r\nCc: carol@example.com\r\n" + letter("repeated")},
	{"in a file", letter("file") + strings.Repeat("0123456789 \t abcdef \r\n", 20<<10)},
}

// What we sign, others can verify.
func TestDKIMVerifiesElsewhere(t *testing.T) {
	t.Parallel()
	k := newDKIMKeys(t)
	for _, c := range dkimLetters {
		t.Run(c.name, func(t *testing.T) {
			signed := k.sign(t, c.text)
			if out, err := k.verify(t, signed); err != nil || sorted(out) != bothAlgorithms {
				t.Errorf("%v: %s\n%.3000s", err, out, signed)
			}
		})
	}
}

// A header field that somebody adds on the way is no less of a change than
// another text.
func TestDKIMTamperingFailsElsewhere(t *testing.T) {
	t.Parallel()
	k := newDKIMKeys(t)
	signed := k.sign(t, letter("tampered"))
	if out, err := k.verify(t, signed); err != nil {
		t.Fatalf("it does not verify as it is: %v: %s", err, out)
	}
	for _, c := range []struct{ name, old, new string }{
		{"second From", "From:", "From: mallory@example.com\r\nFrom:"},
		{"second From below", "\r\n\r\nHello", "\r\nFrom: mallory@example.com\r\n\r\nHello"},
		{"Reply-To", "From:", "Reply-To: mallory@example.com\r\nFrom:"},
		{"body", "Hello", "Hallo"},
	} {
		t.Run(c.name, func(t *testing.T) {
			changed := bytes.Replace(signed, []byte(c.old), []byte(c.new), 1)
			if out, err := k.verify(t, changed); err == nil {
				t.Errorf("it still verifies: %s", out)
			}
		})
	}
}

// The signatures survive postern's own fix-ups and a real Postfix behind it.
func TestDKIMThroughPostfix(t *testing.T) {
	t.Parallel()
	peer(t, "opendkim-testmsg")
	k := newDKIMKeys(t)
	s := startSink(t)
	hop := startPostfix(t, s)
	p := startPostern(t, posternOptions{NextHop: hop.URL, Sections: map[string]string{"relay": k.tables()}})
	text := "Bcc: eve@example.com\r\nCc: dave\r\n" + letter("signed-through-postfix") + "Gr\xc3\xbc\xc3\x9fe\r\n\r\n.\r\n\r\n"
	r, err := p.mustLogin(t, "alice").submit(text, "alice@example.org", "bob@example.net")
	if err != nil || r.Code != 250 {
		t.Fatalf("%v, %v", r, err)
	}
	arrived := s.wait(t, "signed-through-postfix").Data
	if out, err := k.verify(t, arrived); err != nil || sorted(out) != bothAlgorithms {
		t.Errorf("%v: %s\n%s", err, out, arrived)
	}
	opendkim := withDNS(t, k.dns, "opendkim-testmsg")
	opendkim.Stdin = bytes.NewReader(arrived)
	if out, err := opendkim.CombinedOutput(); err != nil {
		t.Errorf("opendkim-testmsg: %v: %s\n%s", err, out, arrived)
	}
}

func sorted(lines string) string {
	return strings.Join(slices.Sorted(strings.SplitSeq(lines, "\n")), "\n")
}
