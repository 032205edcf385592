package policy

import (
	"net/netip"
	"testing"
)

// Shared addresses in mynetworks are a mistake only where mynetworks makes a difference.
func TestLintSharedAddresses(t *testing.T) {
	const (
		login   = "permit_sasl_authenticated, reject"
		anybody = "permit_auth_destination, reject"
		covers  = " whose address many clients share, and "
		remedy  = "; remove it, or name only the addresses of your own clients"
	)
	proxy, gateway := netip.MustParsePrefix("192.0.2.5/32"), netip.MustParsePrefix("172.17.0.0/16")
	for _, c := range []struct {
		name              string
		context           Context
		client, relay     string
		recipient, trusts string
		want              string // the only warning about mynetworks
	}{
		{"permit_mynetworks", Context{}, "", "", "permit_sasl_authenticated, permit_mynetworks, reject", "192.0.2.0/24",
			"192.0.2.0/24 covers a trusted proxy, 192.0.2.5/32," + covers + "permit_mynetworks in recipient permits all of them" + remedy},
		{"another network", Context{}, "", "", "permit_mynetworks, reject", "192.0.2.7", ""},
		{"gateway", Context{}, "", "", "permit_mynetworks, reject", "127.0.0.0/8 172.16.0.0/12",
			"172.16.0.0/12 covers a container gateway, 172.17.0.0/16," + covers + "permit_mynetworks in recipient permits all of them" + remedy},
		{"one address of the bridge", Context{}, "", "", "permit_mynetworks, reject", "172.17.0.1",
			"172.17.0.1/32 covers a container gateway, 172.17.0.0/16," + covers + "permit_mynetworks in recipient permits all of them" + remedy},
		{"another list", Context{RequireAuth: true}, "permit_mynetworks, reject_plaintext_session", "", login, "192.0.2.0/24",
			"192.0.2.0/24 covers a trusted proxy, 192.0.2.5/32," + covers + "permit_mynetworks in client permits all of them" + remedy},
		{"a table", Context{RequireAuth: true, InTable: "check_sender_access texthash:/t"}, "", "", login, "192.0.2.0/24",
			"192.0.2.0/24 covers a trusted proxy, 192.0.2.5/32," + covers + "permit_mynetworks in check_sender_access texthash:/t permits all of them" + remedy},
		{"the end of recipient", Context{}, "", "", "permit_sasl_authenticated, reject_unauth_destination", "192.0.2.0/24",
			"192.0.2.0/24 covers a trusted proxy, 192.0.2.5/32," + covers + "the end of recipient permits all of them without a login" + remedy},
		{"the end of relay", Context{}, "", "defer_unauth_destination", login, "192.0.2.0/24",
			"192.0.2.0/24 covers a trusted proxy, 192.0.2.5/32," + covers + "the end of relay permits all of them without a login" + remedy},
		{"signatures", Context{Signs: true}, "", "", anybody, "192.0.2.0/24",
			"192.0.2.0/24 covers a trusted proxy, 192.0.2.5/32," + covers + "the DKIM keys sign messages of all of them" + remedy},

		{"not used", Context{}, "", "", anybody, "192.0.2.0/24", ""},
		{"logins only", Context{RequireAuth: true, Signs: true}, "", "", login, "192.0.2.0/24", ""},
		{"logins only, and an open end", Context{RequireAuth: true}, "", "", "permit_sasl_authenticated, reject_unauth_destination", "192.0.2.0/24", ""},
		{"the end is not reached", Context{}, "", anybody, "", "192.0.2.0/24", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := Defaults()
			cfg.LocalDomains = Domains{"example.org"}
			cfg.Client, cfg.Relay, cfg.Recipient, cfg.MyNetworks = words(t, c.client), words(t, c.relay), words(t, c.recipient), networks(t, c.trusts)
			c.context.Proxies, c.context.Gateways = []netip.Prefix{proxy}, []netip.Prefix{gateway}
			got := ""
			for _, w := range cfg.Lint(c.context) {
				if w.Key == "mynetworks" {
					got += w.Text
				}
			}
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestTableWithNetworks(t *testing.T) {
	for list, want := range map[string]string{
		"permit_mynetworks, reject":                                                         "",
		"check_sender_access inline:{example.net=OK}, reject":                               "",
		"check_sender_access inline:{{example.net=permit_mynetworks, reject}}, reject":      "check_sender_access inline:{{example.net=permit_mynetworks, reject}}",
		"warn_if_reject check_recipient_access inline:{a@example.net=permit_mynetworks}":    "check_recipient_access inline:{a@example.net=permit_mynetworks}",
		"check_sender_access inline:{{example.net=reject_non_fqdn_sender, reject}}, permit": "",
	} {
		cfg := Defaults()
		cfg.Recipient = words(t, list)
		if got := newTestSet(t, cfg).TableWithNetworks(); got != want {
			t.Errorf("%s: %q, want %q", list, got, want)
		}
	}
}

// A client of which only the proxy's address is known is not in mynetworks, whatever the lists
// ask.
func TestProxyIsNotInMyNetworks(t *testing.T) {
	cfg := Defaults()
	cfg.MyNetworks = networks(t, "192.0.2.0/24")
	cfg.Recipient = words(t, "permit_mynetworks, reject_unauth_destination")
	cfg.LocalDomains = Domains{"example.org"}
	s := newTestSet(t, cfg)
	r := &Request{Remote: netip.MustParseAddrPort("192.0.2.5:1"), Sender: "a@example.net", Recipient: "b@example.com"}
	if v := s.AtRcpt(t.Context(), r); v.Action != Permit || !s.InMyNetworks(r) {
		t.Errorf("%v, in mynetworks: %v", v.Action, s.InMyNetworks(r))
	}
	for _, recipient := range []string{"b@example.com", "b@example.org"} { // the second one reaches the end of the list
		r.AtProxy, r.Recipient = true, recipient
		if v := s.AtRcpt(t.Context(), r); v.Action != Reject || s.InMyNetworks(r) {
			t.Errorf("%s: %v, in mynetworks: %v", recipient, v.Action, s.InMyNetworks(r))
		}
	}
	r.Remote, r.AtProxy = netip.MustParseAddrPort("[::ffff:192.0.2.5]:1"), false
	if !s.InMyNetworks(r) {
		t.Error("an address mapped into IPv6 is not found")
	}
}
