package policy

import (
	"strings"
	"testing"
)

type lintTest struct {
	key, value string
	context    Context
	want       []string // "key: beginning of the text"
}

func TestLint(t *testing.T) {
	auth := Context{RequireAuth: true}
	const (
		good  = "permit_sasl_authenticated, reject"
		cut   = " is never reached, since "
		after = " before it ends the list; remove it or move it up"
	)
	checkLint(t, []lintTest{
		{"recipient", good, auth, nil},
		{"recipient", good + ", reject_non_fqdn_sender, permit", auth, []string{
			"recipient: reject_non_fqdn_sender, permit" + cut + "reject" + after,
			"recipient: the list does not end in reject",
		}},
		{"sender", "permit, reject_non_fqdn_sender", auth, []string{"sender: reject_non_fqdn_sender" + cut + "permit" + after}},
		{"sender", "warn_if_reject permit, reject_non_fqdn_sender", auth, []string{
			"sender: reject_non_fqdn_sender" + cut + "warn_if_reject permit" + after}},
		{"sender", "warn_if_reject reject, reject_non_fqdn_sender", auth, nil},
		{"data", "permit_sasl_authenticated, defer, reject", auth, []string{"data: reject" + cut + "defer" + after}},

		{"recipient", "permit_sasl_authenticated", auth, []string{"recipient: the list does not end in reject; add it"}},
		{"recipient", "", auth, []string{"recipient: the list does not end in reject; add it"}},
		{"recipient", "permit_sasl_authenticated, warn_if_reject reject", auth, []string{"recipient: the list does not end in reject; add it"}},
		{"recipient", "permit_sasl_authenticated, permit", auth, []string{"recipient: the list does not end in reject; add it"}},

		{"client", "reject", auth, []string{"client: reject refuses all clients, authenticated ones too; put permit_sasl_authenticated before it"}},
		{"recipient", "reject_non_fqdn_recipient, defer", auth, []string{"recipient: defer refuses all clients"}},
		{"end_of_data", "permit_mynetworks, reject", Context{}, nil},

		{"data", "reject_non_fqdn_recipient", auth, []string{
			"data: reject_non_fqdn_recipient has no effect here, since there is no single recipient any more; move it to recipient"}},
		{"data", "reject_multi_recipient_bounce", auth, nil},

		{"helo", "reject_non_fqdn_helo_hostname", auth, []string{"helo: reject_non_fqdn_helo_hostname refuses users, since many mail clients"}},
		{"sender", "reject_invalid_helo_hostname, permit_sasl_authenticated", auth, []string{"sender: reject_invalid_helo_hostname refuses users"}},
		{"helo", "permit_sasl_authenticated, reject_non_fqdn_helo_hostname", auth, nil},
		{"helo", "warn_if_reject reject_non_fqdn_helo_hostname", auth, nil},

		{"relay", "permit_sasl_authenticated, reject_unauth_destination", auth, []string{
			"relay: reject_unauth_destination accepts no destination, since no domains are configured; name them in local_domains or relay_domains"}},
	})
}

func TestLintNetworks(t *testing.T) {
	checkLint(t, []lintTest{
		{"recipient", "permit_mynetworks, permit_sasl_authenticated, reject", Context{}, []string{
			"recipient: permit_mynetworks before permit_sasl_authenticated allows all clients in mynetworks to send under any name without a login"}},
		{"recipient", "permit_sasl_authenticated, permit_mynetworks, reject", Context{}, nil},
		{"recipient", "permit_mynetworks, reject", Context{}, nil},
		{"recipient", "permit_mynetworks, permit_sasl_authenticated, reject", Context{RequireAuth: true}, []string{
			"recipient: permit_mynetworks permits no client without a login, since the listener requires authentication"}},
	})
}

func checkLint(t *testing.T, tests []lintTest) {
	t.Helper()
	for _, test := range tests {
		b := block{cfg: Defaults(), where: test.key}
		b.configure(t, test.key+"="+test.value)
		var got []string
		for _, w := range b.cfg.Lint(test.context) {
			got = append(got, w.Key+": "+w.Text)
		}
		if !eachBegins(got, test.want) {
			t.Errorf("%s = %s:\ngot  %q\nwant %q", test.key, test.value, got, test.want)
		}
	}
}

func eachBegins(texts, beginnings []string) bool {
	if len(texts) != len(beginnings) {
		return false
	}
	for i := range texts {
		if !strings.HasPrefix(texts[i], beginnings[i]) {
			return false
		}
	}
	return true
}

// TestLintRelay: the recipient list needs no final reject if the relay list stops
// unauthorized clients.
func TestLintRelay(t *testing.T) {
	c := Defaults()
	c.Relay = words(t, "permit_sasl_authenticated, defer_unauth_destination")
	c.Recipient = words(t, "reject_non_fqdn_recipient")
	c.LocalDomains = Domains{"example.org"}
	if got := c.Lint(Context{RequireAuth: true}); len(got) > 0 {
		t.Errorf("got %q", got)
	}
}

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

		// A table that permits counts as a permit, unless the other list needs no table.
		{"", "check_recipient_access inline:{bob@example.net=REJECT}, reject", "", false},
		{"", "warn_if_reject check_sender_access inline:{bob@example.net=DUNNO}, reject", "", false},
		{"permit_mynetworks, reject_unauth_destination", "check_recipient_access inline:{example.net=OK}, reject", "", false},
		{"", "reject_unauth_destination, check_recipient_access inline:{example.net=OK}", "", false},
		{"", "check_recipient_access inline:{example.net=OK}, reject", "", true},
		{"", "check_sender_access inline:{example.net=1}, reject", "", true},
		{"", "warn_if_reject check_sender_access inline:{example.net=RELAY}, reject", "", true},
		{"", "check_sender_access inline:{a.example=REJECT,{b.example=reject_non_fqdn_sender, permit}}, reject", "", true},
		{"", "check_sender_access inline:{{example.net=permit_sasl_authenticated, reject}}, reject", "", false},
		{"check_recipient_access inline:{example.net=OK}, reject", "check_sender_access inline:{example.net=OK}, reject", "", true},
		{"", "check_recipient_access inline:{example.net=REJECT}", "", true},
		{"", "permit_mynetworks, reject", "0.0.0.0/1 128.0.0.0/1", true},
		{"", "permit_mynetworks, reject", "::/0", true},
	} {
		cfg := Config{
			Relay: words(t, test.relay), Recipient: words(t, test.recipient), MyNetworks: networks(t, test.mynetworks),
		}
		set := newTestSet(t, cfg)
		if err := set.OpenRelay(); (err != nil) != test.open {
			t.Errorf("relay = %s, recipient = %s, mynetworks = %s: %v", test.relay, test.recipient, test.mynetworks, err)
		}
	}
}

// TestClosedMeansClosed sends a message of an unauthorized client through every policy of
// one or two restrictions that OpenRelay accepts. None may permit it.
func TestClosedMeansClosed(t *testing.T) {
	choices := []string{""}
	for i := range table {
		name := table[i].name
		if len(table[i].args) == 0 {
			choices = append(choices, name, "warn_if_reject "+name)
			continue
		}
		for _, action := range []string{"OK", "REJECT", "DUNNO", "permit", "DEFER_IF_REJECT"} {
			choices = append(choices, name+" inline:{example.net="+action+"}", "warn_if_reject "+name+" inline:{example.net="+action+"}")
		}
	}
	for _, first := range choices {
		for _, second := range choices {
			list := strings.TrimSpace(first + " " + second)
			closedToUnauthorized(t, Config{Recipient: words(t, list)})
			closedToUnauthorized(t, Config{Recipient: words(t, "permit"), Relay: words(t, list)})
		}
	}
}

func closedToUnauthorized(t *testing.T, cfg Config) {
	t.Helper()
	cfg.LocalDomains = Domains{"example.org"}
	set, err := NewSet(cfg, &Env{Resolver: fakeDNS{"example.net.": {mx: "mail.example.net"}}})
	if err != nil {
		t.Fatal(err)
	}
	client := &Request{
		Helo: "mail.example.net", TLS: TLS{Version: "TLS 1.3"},
		Sender: "eve@example.net", Recipient: "bob@example.net",
	}
	if v := set.AtRcpt(t.Context(), client); v.Action == Permit && set.OpenRelay() == nil {
		t.Errorf("relay = %s, recipient = %s is no open relay for OpenRelay, but permits an unauthorized client", cfg.Relay, cfg.Recipient)
	}
}
