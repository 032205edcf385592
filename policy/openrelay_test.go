package policy

import (
	"strings"
	"testing"
)

func TestOpenRelay(t *testing.T) {
	for _, test := range []struct {
		relay, recipient, mynetworks string
		open                         bool
	}{
		{"", "permit_sasl_authenticated, reject", "127.0.0.0/8", false},
		{"", "permit_mynetworks, defer", "127.0.0.0/8", false},
		{"permit_mynetworks, permit_sasl_authenticated, defer_unauth_destination", "", "", false},
		{"permit", "reject_unauth_destination", "", false},
		{"reject_unauth_destination", "permit", "", false},
		{"", "permit_auth_destination, reject", "", false},
		{"", "reject_non_fqdn_sender, warn_if_reject reject, reject", "", false},

		{"", "", "", true},
		{"", "permit", "", true},
		{"", "permit, reject", "", true},
		{"", "warn_if_reject permit, reject", "", true},
		{"", "permit_sasl_authenticated, warn_if_reject reject", "", true},
		{"", "warn_if_reject reject_unauth_destination, permit", "", true},
		{"", "permit_mynetworks, reject_unknown_recipient_domain", "", true},
		{"", "reject_plaintext_session, reject_multi_recipient_bounce", "", true},
		{"permit, reject", "permit, reject", "", true},
		{"", "permit_mynetworks, reject", "0.0.0.0/1 128.0.0.0/1", true},
		{"", "permit_mynetworks, reject", "::/0", true},
	} {
		cfg := Config{
			Relay: words(t, test.relay), Recipient: words(t, test.recipient), MyNetworks: networks(t, test.mynetworks),
		}
		set, err := NewSet(cfg, fakeDNS{})
		if err != nil {
			t.Fatal(err)
		}
		if err := set.OpenRelay(); (err != nil) != test.open {
			t.Errorf("relay = %s, recipient = %s, mynetworks = %s: %v", test.relay, test.recipient, test.mynetworks, err)
		}
	}
}

// TestClosedMeansClosed asks every policy of one or two restrictions that is
// not called an open relay for a way through.
func TestClosedMeansClosed(t *testing.T) {
	choices := []string{""}
	for i := range table {
		choices = append(choices, table[i].name, "warn_if_reject "+table[i].name)
	}
	for _, first := range choices {
		for _, second := range choices {
			list := strings.TrimSpace(first + " " + second)
			closedToStrangers(t, Config{Recipient: words(t, list)})
			closedToStrangers(t, Config{Recipient: words(t, "permit"), Relay: words(t, list)})
		}
	}
}

func closedToStrangers(t *testing.T, cfg Config) {
	t.Helper()
	cfg.LocalDomains = Domains{"example.org"}
	set, err := NewSet(cfg, fakeDNS{"example.net.": {mx: "mail.example.net"}})
	if err != nil {
		t.Fatal(err)
	}
	stranger := &Request{
		Helo: "mail.example.net", TLS: TLS{Version: "TLS 1.3"},
		Sender: "eve@example.net", Recipient: "bob@example.net",
	}
	if v := set.AtRcpt(t.Context(), stranger); v.Action == Permit && set.OpenRelay() == nil {
		t.Errorf("relay = %s, recipient = %s is not called an open relay, but lets a stranger through", cfg.Relay, cfg.Recipient)
	}
}
