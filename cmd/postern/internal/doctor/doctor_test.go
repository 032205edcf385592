package doctor

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"postern/cmd/postern/internal/apptest"
	"postern/cmd/postern/internal/check"
	"postern/cmd/postern/internal/config"
	"postern/relay/sign"
	"postern/test/kit"
)

// serve starts a DNS server for the records of a zone file. A name that begins with
// "servfail" is not answered otherwise, and one that begins with "long" only over TCP.
func serve(t *testing.T, zone string) (address string) {
	t.Helper()
	var records []dns.RR
	parser := dns.NewZoneParser(strings.NewReader(zone), "example.org.", "")
	parser.SetDefaultTTL(60)
	for rr, ok := parser.Next(); ok; rr, ok = parser.Next() {
		records = append(records, rr)
	}
	kit.Must(t, parser.Err())
	handle := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		a := new(dns.Msg).SetReply(q)
		name := strings.ToLower(q.Question[0].Name)
		_, overUDP := w.RemoteAddr().(*net.UDPAddr)
		switch {
		case strings.HasPrefix(name, "servfail"):
			a.Rcode = dns.RcodeServerFailure
		case strings.HasPrefix(name, "long") && overUDP:
			a.Truncated = true
		default:
			a.Rcode = dns.RcodeNameError
			for _, rr := range records {
				if strings.EqualFold(rr.Header().Name, name) {
					a.Rcode = dns.RcodeSuccess
					if rr.Header().Rrtype == q.Question[0].Qtype {
						a.Answer = append(a.Answer, rr)
					}
				}
			}
		}
		_ = w.WriteMsg(a)
	})
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	kit.Must(t, err)
	udp, err := net.ListenPacket("udp", tcp.Addr().String())
	for err != nil { // another program has that port
		tcp.Close()
		tcp, err = net.Listen("tcp", "127.0.0.1:0")
		kit.Must(t, err)
		udp, err = net.ListenPacket("udp", tcp.Addr().String())
	}
	address = tcp.Addr().String()
	for _, s := range []*dns.Server{{PacketConn: udp, Handler: handle}, {Listener: tcp, Handler: handle}} {
		go func() { _ = s.ActivateAndServe() }()
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return address
}

// examine returns an examination of a configuration, with the names of the zone.
func examine(t *testing.T, cfg *config.Config, zone string) (*examination, *strings.Builder) {
	t.Helper()
	var out strings.Builder
	r, err := newResolver(serve(t, zone))
	kit.Must(t, err)
	return &examination{
		cfg: cfg, dns: r, report: check.NewReport(&out, false),
		host: "mail.example.org", domain: "example.org", addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
	}, &out
}

func want(t *testing.T, name string, out *strings.Builder, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(out.String(), part) {
			t.Errorf("%s: no %q in\n%s", name, part, out)
		}
	}
}

func TestReverse(t *testing.T) {
	for zone, parts := range map[string][]string{
		"1.2.0.192.in-addr.arpa. PTR mail.example.org.": {"ok    PTR", "192.0.2.1 is mail.example.org"},
		"1.2.0.192.in-addr.arpa. PTR host.isp.example.": {"note  PTR", "is host.isp.example. and not mail.example.org"},
		"": {"warn  PTR", "1.2.0.192.in-addr.arpa. IN PTR mail.example.org."},
	} {
		e, out := examine(t, config.Default(), zone)
		e.reverse(t.Context())
		want(t, zone, out, parts...)
	}
}

func TestServices(t *testing.T) {
	const both = "_submissions._tcp SRV 0 1 465 mail.example.org.\n"
	cfg := config.Default()
	kit.Must(t, defaults(cfg))
	for zone, parts := range map[string][]string{
		both + "_submission._tcp SRV 0 1 587 mail.example.org.\n": {"ok    SRV            _submissions._tcp.example.org: mail.example.org port 465", "_submission._tcp.example.org: mail.example.org port 587"},
		both:                                    {"note  SRV", "add to the zone:", "_submission._tcp.example.org. IN SRV 0 1 587 mail.example.org."},
		both + "_submission._tcp SRV 0 0 0 .\n": {"warn  SRV", "tells clients that the service does not exist"},
		both + "_submission._tcp SRV 0 1 25 mail.example.org.\n":     {"FAIL  SRV", "names port 25, where no listener"},
		both + "_submission._tcp SRV 0 1 587 nowhere.example.org.\n": {"FAIL  SRV", "names nowhere.example.org, which has no address"},
	} {
		e, out := examine(t, cfg, zone)
		e.services(t.Context())
		want(t, zone, out, parts...)
	}
}

// defaults gives cfg the listeners of an empty file.
func defaults(cfg *config.Config) error {
	parsed, err := config.Parse("", "")
	if err == nil {
		*cfg = *parsed
	}
	return err
}

func TestMailRecords(t *testing.T) {
	const addresses = "mail A 192.0.2.1\n"
	for _, tt := range []struct {
		name, zone string
		run        func(*examination)
		want       []string
	}{
		{"MX", addresses + "@ MX 10 mail", func(e *examination) { e.exchangers(t.Context()) }, []string{"ok    MX", "mail.example.org"}},
		{"no MX", addresses, func(e *examination) { e.exchangers(t.Context()) }, []string{"warn  MX", "example.org. IN MX 10 mail.example.org."}},
		{"null MX", "@ MX 0 .", func(e *examination) { e.exchangers(t.Context()) }, []string{"warn  MX", "accepts no mail"}},
		{"MX without address", "@ MX 10 gone", func(e *examination) { e.exchangers(t.Context()) }, []string{"FAIL  MX", "gone.example.org., which has no address"}},
		{"SPF", addresses + "@ MX 10 mail\n@ TXT \"v=spf1 mx -all\"", func(e *examination) { e.spf(t.Context()) }, []string{"ok    SPF", "192.0.2.1, of mail.example.org: pass"}},
		{"no SPF", addresses, func(e *examination) { e.spf(t.Context()) }, []string{"warn  SPF", `example.org. IN TXT "v=spf1 mx a:mail.example.org ~all"`}},
		{"SPF of another", addresses + "@ TXT \"v=spf1 ip4:198.51.100.1 -all\"", func(e *examination) { e.spf(t.Context()) }, []string{"FAIL  SPF", "add ip4:192.0.2.1 to the SPF record"}},
		{"two SPF", "@ TXT \"v=spf1 -all\"\n@ TXT \"v=spf1 +all\"", func(e *examination) { e.spf(t.Context()) }, []string{"FAIL  SPF", "cannot be evaluated"}},
		{"SPF in a circle", "@ TXT \"v=spf1 include:example.org -all\"", func(e *examination) { e.spf(t.Context()) }, []string{"FAIL  SPF", "cannot be evaluated"}},
		{"DMARC", "_dmarc TXT \"v=DMARC1; p=reject\"", func(e *examination) { e.dmarc(t.Context()) }, []string{"ok    DMARC", "p=reject"}},
		{"no DMARC", "", func(e *examination) { e.dmarc(t.Context()) }, []string{"warn  DMARC", `_dmarc.example.org. IN TXT "v=DMARC1; p=none;`}},
		{"bad DMARC", "_dmarc TXT \"v=DMARC1; p=maybe\"", func(e *examination) { e.dmarc(t.Context()) }, []string{"FAIL  DMARC", "cannot be read"}},
		{"two DMARC", "_dmarc TXT \"v=DMARC1; p=none\"\n_dmarc TXT \"v=DMARC1; p=reject\"", func(e *examination) { e.dmarc(t.Context()) }, []string{"FAIL  DMARC", "has 2 records"}},
		{"DMARC above", "_dmarc TXT \"v=DMARC1; p=reject\"", func(e *examination) { e.domain = "users.example.org"; e.dmarc(t.Context()) }, []string{"ok    DMARC", "p=reject"}},
		{"wildcard TXT", "_dmarc TXT \"v=spf1 -all\"", func(e *examination) { e.dmarc(t.Context()) }, []string{"warn  DMARC", "no DMARC policy"}},
		{"MX with an address", "@ MX 10 192.0.2.1.", func(e *examination) { e.exchangers(t.Context()) }, []string{"FAIL  MX", "where only a name is allowed"}},
		{"no keys", "", func(e *examination) { e.dkim(t.Context()) }, []string{"note  DKIM", "postern dkim keygen example.org"}},
	} {
		e, out := examine(t, config.Default(), tt.zone)
		tt.run(e)
		want(t, tt.name, out, tt.want...)
	}
}

func TestDKIM(t *testing.T) {
	file := t.TempDir() + "/key.pem"
	public, err := sign.GenerateKey(file, sign.RSA)
	kit.Must(t, err)
	record, err := sign.TXTRecord("example.org", "s1", public)
	kit.Must(t, err)
	zone := record.String()
	changed := func(old, replacement string) string { return strings.Replace(zone, old, replacement, 1) }
	for name, tt := range map[string]struct {
		zone string
		want []string
	}{
		"right":       {zone, []string{"ok    DKIM", "s1._domainkey.example.org"}},
		"missing":     {"", []string{"FAIL  DKIM", "has no record", zone[:20]}},
		"cut off":     {fmt.Sprintf(`s1._domainkey TXT "%s"`, record.Text[:200]), []string{"FAIL  DKIM", "is cut off after 182 characters"}},
		"quoted":      {`s1._domainkey TXT "\"v=DKIM1; p=AAAA\""`, []string{"FAIL  DKIM", "contains quotes"}},
		"semicolon":   {`s1._domainkey TXT "v=DKIM1\\; p=AAAA"`, []string{"FAIL  DKIM", "contains quotes or backslashes"}},
		"no key":      {`s1._domainkey TXT "v=DKIM1; k=rsa"`, []string{"FAIL  DKIM", "p= is missing"}},
		"twice named": {`s1._domainkey.example.org TXT "v=DKIM1; p=AAAA"`, []string{"FAIL  DKIM", "where the domain is twice"}},
		"revoked":     {`s1._domainkey TXT "v=DKIM1; k=rsa; p="`, []string{"FAIL  DKIM", "is revoked"}},
		"other":       {`s1._domainkey TXT "v=DKIM1; k=rsa; p=AAAA"`, []string{"FAIL  DKIM", "for another key than " + file}},
		"kind":        {changed("k=rsa", "k=ed25519"), []string{"FAIL  DKIM", "kind ed25519"}},
		"default":     {changed("k=rsa; ", ""), []string{"ok    DKIM"}},
		"version":     {changed("DKIM1", "DKIM2"), []string{"FAIL  DKIM", "version DKIM2"}},
		"test":        {changed("k=rsa", "t=y; k=rsa"), []string{"warn  DKIM", "remove t=y"}},
		"sha1":        {changed("k=rsa", "h=sha1; k=rsa"), []string{"FAIL  DKIM", "does not allow sha256"}},
		"twice":       {zone + `s1._domainkey TXT "v=DKIM1; p=AAAA"`, []string{"FAIL  DKIM", "several records"}},
		"no answer":   {"", []string{"warn  DKIM", "SERVFAIL"}},
	} {
		cfg := config.Default()
		cfg.Relay.DKIM = []sign.Key{{Domain: "example.org", Selector: "s1", File: file}}
		if name == "no answer" {
			cfg.Relay.DKIM[0].Selector = "servfail"
		}
		cfg.Relay.Dir = "/spool" // so that the shared section is used
		e, out := examine(t, cfg, tt.zone)
		e.dkim(t.Context())
		want(t, name, out, tt.want...)
	}
}

// A truncated answer is asked for over TCP; a server that does not answer is named.
func TestResolver(t *testing.T) {
	r, err := newResolver(serve(t, "long A 192.0.2.7"))
	kit.Must(t, err)
	if addrs, err := r.addresses(t.Context(), "long.example.org"); err != nil || len(addrs) != 1 {
		t.Errorf("%v, %v", addrs, err)
	}
	if addrs, err := r.addresses(t.Context(), "none.example.org"); err != nil || addrs != nil {
		t.Errorf("%v, %v", addrs, err)
	}
	closed, err := newResolver(kit.Addr(t))
	kit.Must(t, err)
	if _, err := closed.addresses(t.Context(), "mail.example.org"); err == nil || !strings.Contains(err.Error(), closed.servers[0]+" does not answer") {
		t.Error(err)
	}
	for range maxQuestions {
		r.asked++
	}
	if _, err := r.ask(t.Context(), "x.example.org", dns.TypeA); err != errQuestions {
		t.Error(err)
	}
}

func TestPublic(t *testing.T) {
	for name, want := range map[string]bool{"mail.example.org": true, "localhost": false, "mail": false, "mail.local": false, "mail.lan.": false, "x.internal": false, "": false} {
		if public(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
}

// The whole examination of a server that answers at its public address.
func TestRun(t *testing.T) {
	s := apptest.New(t)
	s.Replace(t, "hostname = \"localhost\"\n", "hostname = \"mail.example.org\"\norigin = \"example.org\"\n")
	cfg, err := config.Load(s.Config())
	kit.Must(t, err)
	var out strings.Builder
	report := check.NewReport(&out, false)
	Run(t.Context(), cfg, serve(t, "mail A 127.0.0.1\n@ MX 10 mail\n"), report)
	want(t, "Run", &out, "ok    address        mail.example.org: 127.0.0.1", "warn  port", "connection refused", "note  SRV", "ok    MX", "warn  SPF", "note  DKIM", "warn  DMARC")

	out.Reset()
	s.Start(t)
	tlsa := fmt.Sprintf("_%s._tcp.mail TLSA 3 1 1 ", s.Address[strings.LastIndex(s.Address, ":")+1:])
	block, _ := pem.Decode([]byte(apptest.ReadFile(t, s.File("cert.pem"))))
	cert, err := x509.ParseCertificate(block.Bytes)
	kit.Must(t, err)
	digest := fmt.Sprintf("%x", sha256.Sum256(cert.RawSubjectPublicKeyInfo))
	Run(t.Context(), cfg, serve(t, "mail A 127.0.0.1\n"+tlsa+digest), report)
	want(t, "Run", &out, "ok    port           "+s.Address+" answers", "ok    TLSA")
	Run(t.Context(), cfg, serve(t, "mail A 127.0.0.1\n"+tlsa+strings.Repeat("0", 64)), report)
	want(t, "Run", &out, "FAIL  TLSA", "mail.example.org. IN TLSA 3 1 1 "+digest)

	out.Reset()
	Run(t.Context(), cfg, serve(t, ""), report)
	want(t, "Run", &out, "FAIL  address", "mail.example.org. IN A")
}

// A listener for programs of this machine has no public port.
func TestListenersOnLoopback(t *testing.T) {
	cfg, err := config.Parse("", "[[listener]]\nname = \"public\"\naddress = [\":587\"]\n"+
		"[[listener]]\nname = \"webmail\"\naddress = [\"127.0.0.1:1587\", \"[::1]:1587\"]\n")
	kit.Must(t, err)
	e, _ := examine(t, cfg, "")
	if got := e.listeners(); len(got) != 1 || got[0].number != 587 {
		t.Errorf("%v", got)
	}
}

// Receivers do not see the address of a private network, but they miss the record.
func TestPrivateAddress(t *testing.T) {
	for zone, parts := range map[string][]string{
		`@ TXT "v=spf1 ip4:198.51.100.1 -all"`: nil,
		"":                                     {"warn  SPF"},
	} {
		e, out := examine(t, config.Default(), zone)
		e.addrs = []netip.Addr{netip.MustParseAddr("192.168.1.2")}
		e.spf(t.Context())
		want(t, zone, out, parts...)
		if parts == nil && out.Len() > 0 {
			t.Error(out)
		}
	}
}
