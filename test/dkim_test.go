package test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/emersion/go-smtp"
	"golang.org/x/net/dns/dnsmessage"

	"postern/relay"
	"postern/relay/message"
	"postern/relay/relaytest"
	"postern/relay/sign"
	"postern/test/kit"
)

// dkimKeys has one key of each kind and the DNS server that publishes them.
type dkimKeys struct {
	keys []sign.Key
	dns  string
}

// newDKIMKeys makes keys for example.org that postern can read.
func newDKIMKeys(t *testing.T) *dkimKeys {
	t.Helper()
	peer(t, "root", "unshare", "python3-dkim")
	dir := kit.OpenDir(t)
	k := &dkimKeys{}
	zone := map[string]string{}
	for _, a := range []sign.Algorithm{sign.RSA, sign.Ed25519} {
		key := sign.Key{Domain: "example.org", Selector: string(a), File: filepath.Join(dir, string(a)+".pem")}
		public, err := sign.GenerateKey(key.File, a)
		kit.Must(t, err)
		kit.Must(t, os.Chown(key.File, nobody, nobody))
		record, err := sign.TXTRecord(key.Domain, key.Selector, public)
		kit.Must(t, err)
		zone[record.Name+"."] = record.Text
		k.keys = append(k.keys, key)
	}
	k.dns = startDNS(t, zone)
	return k
}

// tables returns the configuration of the keys.
func (k *dkimKeys) tables() string {
	var b strings.Builder
	for _, key := range k.keys {
		fmt.Fprintf(&b, "[[relay.dkim]]\ndomain = %q\nselector = %q\nkey = %q\n", key.Domain, key.Selector, key.File)
	}
	return b.String()
}

// verify runs another implementation of DKIM. It prints the algorithm of each valid
// signature and fails at the first invalid one.
func (k *dkimKeys) verify(t *testing.T, message []byte) (string, error) {
	t.Helper()
	cmd := withDNS(t, k.dns, python, filepath.Join("testdata", "verify.py"))
	cmd.Stdin = bytes.NewReader(message)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

const bothAlgorithms = "ed25519-sha256\nrsa-sha256"

// A recordingHop is a hop that keeps the message.
type recordingHop struct{ message []byte }

func (c *recordingHop) Begin(context.Context, *relay.Envelope) (relay.Transaction, error) {
	return c, nil
}
func (c *recordingHop) Caps() relay.Caps                                      { return relay.Caps{} }
func (c *recordingHop) Rcpt(context.Context, string, *smtp.RcptOptions) error { return nil }
func (c *recordingHop) Close() error                                          { return nil }

func (c *recordingHop) Send(_ context.Context, m *message.Message) (relay.Receipt, error) {
	var err error
	c.message, err = io.ReadAll(m.Reader())
	return relay.Receipt{}, err
}

// sign stages and signs a message.
func (k *dkimKeys) sign(t *testing.T, text string) []byte {
	t.Helper()
	m := relaytest.Stage(t, text)
	hop := &recordingHop{}
	signer, err := sign.New(k.keys, sign.NewLog(slog.New(slog.DiscardHandler)))
	kit.Must(t, err)
	ctx := context.Background()
	tx, err := signer.Before(hop).Begin(ctx, &relay.Envelope{MaySign: true})
	kit.Must(t, err)
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
	{"many lines", "To: a@example.net" + strings.Repeat(",\r\n a@example.net", 4000) + "\r\n" + letter("lines")},
	{"lines without text", "References: <1@x>\r\n \t" + strings.Repeat("\r\n \t", 5000) + "\r\n\t<2@x>\r\n" + letter("blank lines")},
	{"blanks around values", "Cc: \t \r\n\t bob@example.net \t\r\nReply-To: \r\n \r\n" + letter("blanks")},
	{"other fields of many lines", "X-Other:" + strings.Repeat(" x\r\n", 50000) + letter("other")},
	{"in a file", letter("file") + strings.Repeat("0123456789 \t abcdef \r\n", 20<<10)},
}

// Another implementation verifies the signatures of postern.
func TestDKIMVerifies(t *testing.T) {
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

// A header field that is added on the way breaks the signature, like a changed text.
func TestDKIMTamperingFails(t *testing.T) {
	t.Parallel()
	k := newDKIMKeys(t)
	signed := k.sign(t, letter("tampered"))
	if out, err := k.verify(t, signed); err != nil {
		t.Fatalf("the original does not verify: %v: %s", err, out)
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
				t.Errorf("verifies: %s", out)
			}
		})
	}
}

// The signatures verify after postern's own changes of the header and a real Postfix.
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

// The largest field that postern signs passes Postfix whole (header_size_limit), and its
// signature verifies. A message with a larger one arrives without a signature.
func TestDKIMLargestField(t *testing.T) {
	t.Parallel()
	k := newDKIMKeys(t)
	s := startSink(t)
	hop := startPostfix(t, s, "local_header_rewrite_clients=")
	p := startPostern(t, posternOptions{NextHop: hop.URL, Sections: map[string]string{"relay": k.tables()}})
	const limit = 102400
	for _, c := range []struct {
		size int
		want string
	}{{limit, bothAlgorithms}, {limit + 1, "there is no signature"}} {
		cc := "Cc: a@example.net" + strings.Repeat(",\r\n dave@example.net", (limit-100)/20) + ",\r\n "
		cc += strings.Repeat("x", c.size-len(cc)-len("@example.net\r\n")) + "@example.net\r\n"
		mark := fmt.Sprintf("field-of-%d", len(cc))
		r, err := p.mustLogin(t, "alice").submit(cc+letter(mark), "alice@example.org", "bob@example.net")
		if err != nil || r.Code != 250 {
			t.Fatalf("%v, %v", r, err)
		}
		arrived := s.wait(t, mark).Data
		if out, _ := k.verify(t, arrived); sorted(out) != c.want || !bytes.Contains(arrived, []byte(cc)) {
			t.Errorf("a field of %d bytes: %s\n%.2000s", len(cc), out, arrived)
		}
	}
}

func sorted(lines string) string {
	return strings.Join(slices.Sorted(strings.SplitSeq(lines, "\n")), "\n")
}

// startDNS serves TXT records on port 53 of a free loopback address, which it returns.
// Names end in a dot.
func startDNS(t *testing.T, txt map[string]string) string {
	t.Helper()
	var conn net.PacketConn
	var err error
	for n := 1; n < 250 && conn == nil; n++ {
		conn, err = net.ListenPacket("udp", fmt.Sprintf("127.53.0.%d:53", n))
	}
	if conn == nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		serveDNS(conn, txt)
	}()
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
	return conn.LocalAddr().(*net.UDPAddr).IP.String()
}

func serveDNS(conn net.PacketConn, txt map[string]string) {
	buf := make([]byte, 4096)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		if answer, err := answerDNS(buf[:n], txt); err == nil {
			_, _ = conn.WriteTo(answer, from)
		}
	}
}

func answerDNS(query []byte, txt map[string]string) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil, err
	}
	q := m.Questions[0]
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	text, found := txt[strings.ToLower(q.Name.String())]
	switch {
	case !found:
		m.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeTXT:
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60},
			Body:   &dnsmessage.TXTResource{TXT: pieces(text)},
		}}
	}
	return m.Pack()
}

// pieces cuts a TXT record into strings of at most 255 bytes.
func pieces(text string) []string {
	var all []string
	for len(text) > 255 {
		all = append(all, text[:255])
		text = text[255:]
	}
	return append(all, text)
}

// withDNS returns a command that uses only this DNS server: it runs in a mount namespace
// with another resolv.conf.
func withDNS(t *testing.T, server, name string, args ...string) *exec.Cmd {
	t.Helper()
	file := filepath.Join(t.TempDir(), "resolv.conf")
	write(t, file, "nameserver "+server+"\n")
	script := `mount --bind "$0" /etc/resolv.conf && exec "$@"`
	return command(t, "unshare", append([]string{"--mount", "sh", "-c", script, file, name}, args...)...)
}
