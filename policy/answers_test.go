package policy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestAnswers evaluates the requests in testdata. A file consists of blocks with empty lines
// between them; each block has its own policy:
//
//	recipient = permit_sasl_authenticated, reject   a key of the configuration
//	dns example.org mx=mail.example.org ip=none     records of a domain
//	C: login=alice to=bob@example.net               a request
//	S: permit                                       the verdict
//	W: reject: 554 ...                              its warnings, one per line
//
// The DNS has no other domains; mx is none, fail, "." or a host, and ip is none, fail or
// found. The default request is a client at 192.0.2.1 without TLS that has sent "EHLO
// mail.example.org", and a message from alice@example.org to bob@example.net.
func TestAnswers(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no files in testdata: ", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) { play(t, file) })
	}
}

func play(t *testing.T, file string) {
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := newBlock()
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		b.where = fmt.Sprintf("%s:%d", file, n)
		b.line(t, lines.Text())
	}
	b.finish(t)
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
}

// A block is one policy with its requests.
type block struct {
	cfg   Config
	dns   fakeDNS
	where string // of the current line

	asked, question string // where the last request is, and its text
	got, want       []string
}

func newBlock() *block { return &block{dns: fakeDNS{}} }

func (b *block) line(t *testing.T, line string) {
	line, isComment := strings.TrimSpace(line), strings.HasPrefix(line, "#")
	if isComment {
		return
	}
	if line == "" {
		b.finish(t)
		*b = *newBlock()
		return
	}
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "C:":
		b.finish(t)
		b.ask(t, rest)
	case "S:", "W:":
		b.want = append(b.want, line)
	case "dns":
		b.addDomain(t, rest)
	default:
		b.configure(t, line)
	}
}

// finish compares the verdict of the last request with the expected one.
func (b *block) finish(t *testing.T) {
	if got, want := strings.Join(b.got, "\n"), strings.Join(b.want, "\n"); got != want {
		t.Errorf("%s: C: %s\ngot\n%s\nwant\n%s", b.asked, b.question, got, want)
	}
	b.got, b.want = nil, nil
}

func (b *block) configure(t *testing.T, line string) {
	key, value, ok := strings.Cut(line, "=")
	lists := map[string]interface{ UnmarshalText([]byte) error }{
		"client": &b.cfg.Client, "helo": &b.cfg.Helo, "sender": &b.cfg.Sender,
		"relay": &b.cfg.Relay, "recipient": &b.cfg.Recipient,
		"data": &b.cfg.Data, "end_of_data": &b.cfg.EndOfData,
		"mynetworks": &b.cfg.MyNetworks, "relay_domains": &b.cfg.RelayDomains, "local_domains": &b.cfg.LocalDomains,
	}
	list := lists[strings.TrimSpace(key)]
	if !ok || list == nil {
		t.Fatalf("%s: %q is not a line of a policy", b.where, line)
	}
	if err := list.UnmarshalText([]byte(value)); err != nil {
		t.Fatalf("%s: %v", b.where, err)
	}
}

func (b *block) ask(t *testing.T, question string) {
	set, err := NewSet(b.cfg, &Env{Resolver: b.dns})
	if err != nil {
		t.Fatalf("%s: %v", b.where, err)
	}
	at, r := b.request(t, question)
	verdicts := map[string]func(context.Context, *Request) Verdict{
		"rcpt": set.AtRcpt, "data": set.AtData, "end_of_data": set.AtEndOfData,
	}
	v := verdicts[at](t.Context(), r)
	b.asked, b.question = b.where, question
	if at == "rcpt" && len(b.cfg.Data)+len(b.cfg.EndOfData) == 0 {
		if _, e := set.Explain(t.Context(), r); spell(e) != spell(v) || e.Restriction != v.Restriction {
			t.Errorf("%s: Explain returned %s by %q, AtRcpt %s by %q", b.where, spell(e), e.Restriction, spell(v), v.Restriction)
		}
	}
	b.got = append(b.got, "S: "+spell(v))
	for _, w := range v.Warnings {
		b.got = append(b.got, "W: "+w)
	}
}

func spell(v Verdict) string {
	switch {
	case v.Action == Permit && v.Reply == nil:
		return "permit"
	case v.Action == Reject && v.Reply != nil && v.Reply.Code/100 == 5,
		v.Action == Defer && v.Reply != nil && v.Reply.Code/100 == 4:
		e := v.Reply.EnhancedCode
		return fmt.Sprintf("%d %d.%d.%d %s", v.Reply.Code, e[0], e[1], e[2], v.Reply.Message)
	}
	return fmt.Sprintf("action %d with reply %v", v.Action, v.Reply)
}

// request parses a request; at is the stage.
func (b *block) request(t *testing.T, question string) (at string, r *Request) {
	at = "rcpt"
	r = &Request{
		Remote: netip.MustParseAddrPort("192.0.2.1:40000"), Helo: "mail.example.org",
		Sender: "alice@example.org", Recipient: "bob@example.net",
	}
	for _, field := range splitQuoted(question) {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "at":
			at, r.Recipient = value, ""
		case "addr":
			r.Remote = netip.AddrPortFrom(netip.MustParseAddr(value), 40000)
		case "helo":
			r.Helo = value
		case "from":
			r.Sender = value
		case "to":
			r.Recipient = value
		case "login":
			r.Login = value
		case "tls":
			r.TLS = TLS{Version: "TLS " + value, Cipher: "TLS_AES_128_GCM_SHA256"}
		case "rcpts":
			var err error
			if r.Recipients, err = strconv.Atoi(value); err != nil {
				t.Fatalf("%s: %v", b.where, err)
			}
		default:
			t.Fatalf("%s: unknown field %q", b.where, field)
		}
	}
	return at, r
}

// splitQuoted splits at blanks that are not in quotes. The quotes are kept.
func splitQuoted(s string) []string {
	quoted := false
	return strings.FieldsFunc(s, func(c rune) bool {
		if c == '"' {
			quoted = !quoted
		}
		return c == ' ' && !quoted
	})
}

// A fakeDNS has for each name the results of its MX and its address lookup.
type fakeDNS map[string]struct{ mx, ip string }

func (b *block) addDomain(t *testing.T, line string) {
	f := strings.Fields(line)
	if len(f) != 3 || !strings.HasPrefix(f[1], "mx=") || !strings.HasPrefix(f[2], "ip=") {
		t.Fatalf("%s: want dns NAME mx=... ip=...", b.where)
	}
	b.dns[f[0]+"."] = struct{ mx, ip string }{f[1][3:], f[2][3:]}
}

var (
	errNotFound = &net.DNSError{Err: "no such host", IsNotFound: true}
	errServFail = &net.DNSError{Err: "server misbehaving", IsTemporary: true}
)

func (d fakeDNS) LookupMX(_ context.Context, name string) ([]*net.MX, error) {
	switch mx := d[name].mx; mx {
	case "", "none":
		return nil, errNotFound
	case "fail":
		return nil, errServFail
	default:
		return []*net.MX{{Host: mx}}, nil
	}
}

func (d fakeDNS) LookupNetIP(_ context.Context, network, host string) ([]netip.Addr, error) {
	if network != "ip" {
		return nil, errors.New("want both families, not " + network)
	}
	switch d[host].ip {
	case "found":
		return []netip.Addr{netip.MustParseAddr("192.0.2.80")}, nil
	case "fail":
		return nil, errServFail
	}
	return nil, errNotFound
}
