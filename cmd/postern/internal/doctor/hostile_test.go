package doctor

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"postern/cmd/postern/internal/config"
	"postern/relay/sign"
	"postern/test/kit"
)

// script starts a DNS server that sends what reply returns for each packet, without
// looking at it; nil is silence. TCP connections are refused.
func script(t *testing.T, reply func(question []byte) [][]byte) (address string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	kit.Must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		packet := make([]byte, 4096)
		for {
			n, from, err := conn.ReadFrom(packet)
			if err != nil {
				return
			}
			for _, answer := range reply(packet[:n]) {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	}()
	return conn.LocalAddr().String()
}

// answer returns a sound answer to a packet, with one address.
func answer(t *testing.T, question []byte) *dns.Msg {
	q := new(dns.Msg)
	if err := q.Unpack(question); err != nil {
		t.Error(err)
		return q
	}
	a := new(dns.Msg).SetReply(q)
	if q.Question[0].Qtype == dns.TypeA {
		rr, err := dns.NewRR(q.Question[0].Name + " 60 IN A 192.0.2.7")
		kit.Must(t, err)
		a.Answer = append(a.Answer, rr)
	}
	return a
}

func packed(t *testing.T, m *dns.Msg) []byte {
	data, err := m.Pack()
	if err != nil {
		t.Error(err)
	}
	return data
}

// An answer with the id of another question is ignored: it may be forged. The one with the
// right id counts.
func TestResolverIgnoresWrongID(t *testing.T) {
	r, err := newResolver(script(t, func(question []byte) [][]byte {
		forged, sound := answer(t, question), answer(t, question)
		forged.Id++
		for _, rr := range of[*dns.A](forged.Answer) {
			rr.A = net.IPv4(198, 51, 100, 1)
		}
		return [][]byte{packed(t, forged), packed(t, sound)}
	}))
	kit.Must(t, err)
	addrs, err := r.addresses(t.Context(), "mail.example.org")
	if err != nil || join(addrs) != "192.0.2.7" {
		t.Errorf("%v, %v", addrs, err)
	}
}

// What is not an answer is an error that names the server, never "no such record".
func TestResolverGarbage(t *testing.T) {
	for name, reply := range map[string]func([]byte) [][]byte{
		"noise": func([]byte) [][]byte { return [][]byte{[]byte("\xff\xfe not DNS")} },
		"empty": func([]byte) [][]byte { return [][]byte{{}} },
		"cut off": func(q []byte) [][]byte {
			whole := packed(t, answer(t, q))
			return [][]byte{whole[:len(whole)-3]}
		},
		"truncated, no TCP": func(q []byte) [][]byte {
			a := answer(t, q)
			a.Answer, a.Truncated = nil, true
			return [][]byte{packed(t, a)}
		},
		"refused": func(q []byte) [][]byte {
			a := answer(t, q)
			a.Answer, a.Rcode = nil, dns.RcodeRefused
			return [][]byte{packed(t, a)}
		},
	} {
		server := script(t, reply)
		r, err := newResolver(server)
		kit.Must(t, err)
		records, err := r.ask(t.Context(), "mail.example.org", dns.TypeA)
		if err == nil || !strings.Contains(err.Error(), server) {
			t.Errorf("%s: %v, %v", name, records, err)
		}
	}
}

// What comes from the DNS cannot add lines to the report, nor commands for the terminal.
func TestHostileRecords(t *testing.T) {
	const evil = `\013\010ok    SPF            all is well\027[2J`
	file := t.TempDir() + "/key.pem"
	_, err := sign.GenerateKey(file, sign.RSA)
	kit.Must(t, err)
	cfg := config.Default()
	kit.Must(t, defaults(cfg))
	cfg.Relay.DKIM = []sign.Key{{Domain: "example.org", Selector: "s1", File: file}}
	cfg.Relay.Dir = "/spool"
	e, out := examine(t, cfg, strings.Join([]string{
		`1.2.0.192.in-addr.arpa. PTR a\010\027[2J.example.`,
		`_submission._tcp SRV 0 1 587 a\010\027[2J.example.`,
		`@ MX 10 a\010\027[2J.example.`,
		fmt.Sprintf(`@ TXT "v=spf1 %s -all"`, evil),
		fmt.Sprintf(`_dmarc TXT "v=DMARC1; p=%s"`, evil),
		fmt.Sprintf(`s1._domainkey TXT "v=DKIM1; k=%s; p=AAAA"`, evil+strings.Repeat("x", 120)),
	}, "\n"))
	for _, step := range []func(){
		func() { e.reverse(t.Context()) }, func() { e.services(t.Context()) }, func() { e.exchangers(t.Context()) },
		func() { e.spf(t.Context()) }, func() { e.dkim(t.Context()) }, func() { e.dmarc(t.Context()) },
	} {
		step()
	}
	for line := range strings.Lines(out.String()) {
		text := strings.TrimSuffix(line, "\n")
		if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) || strings.HasPrefix(text, "ok    SPF") || len(text) > 1000 {
			t.Errorf("%q", line)
		}
	}
}
