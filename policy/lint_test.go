package policy

import (
	"net/netip"
	"strings"
	"testing"
)

func TestLint(t *testing.T) {
	proxy := Surroundings{Proxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.5/32")}}
	gateway := Surroundings{Gateways: []netip.Prefix{netip.MustParsePrefix("172.17.0.0/16")}}
	auth := Surroundings{RequireAuth: true}
	const (
		good  = "permit_sasl_authenticated, reject"
		cut   = " is never reached, since "
		after = " before it ends the list; take it out or move it up"
	)
	for _, test := range []struct {
		key, value string
		around     Surroundings
		want       []string // "key: beginning of the text"
	}{
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

		{"client", "reject", auth, []string{"client: reject refuses everybody, also who has logged in; put permit_sasl_authenticated before it"}},
		{"recipient", "reject_non_fqdn_recipient, defer", auth, []string{"recipient: defer refuses everybody"}},
		{"end_of_data", "permit_mynetworks, reject", Surroundings{}, nil},

		{"data", "reject_non_fqdn_recipient", auth, []string{
			"data: reject_non_fqdn_recipient has no effect here, since no single recipient is known any more; move it to recipient"}},
		{"data", "reject_multi_recipient_bounce", auth, nil},

		{"helo", "reject_non_fqdn_helo_hostname", auth, []string{"helo: reject_non_fqdn_helo_hostname refuses users, since many mail clients"}},
		{"sender", "reject_invalid_helo_hostname, permit_sasl_authenticated", auth, []string{"sender: reject_invalid_helo_hostname refuses users"}},
		{"helo", "permit_sasl_authenticated, reject_non_fqdn_helo_hostname", auth, nil},
		{"helo", "warn_if_reject reject_non_fqdn_helo_hostname", auth, nil},

		{"recipient", "permit_mynetworks, " + good, Surroundings{}, []string{
			"recipient: permit_mynetworks before permit_sasl_authenticated lets everybody in mynetworks send under any name without a login"}},
		{"recipient", "permit_sasl_authenticated, permit_mynetworks, reject", Surroundings{}, nil},
		{"recipient", "permit_mynetworks, reject", Surroundings{}, nil},
		{"recipient", "permit_mynetworks, " + good, auth, []string{
			"recipient: permit_mynetworks lets nobody in without a login, since the listener requires authentication"}},

		{"relay", "permit_sasl_authenticated, reject_unauth_destination", auth, []string{
			"relay: reject_unauth_destination finds no destination that is ours; name your domains in local_domains or relay_domains"}},

		{"mynetworks", "192.0.2.0/24", proxy, []string{"mynetworks: 192.0.2.0/24 covers a trusted proxy, 192.0.2.5/32, whose address many clients share"}},
		{"mynetworks", "192.0.2.7", proxy, nil},
		{"mynetworks", "127.0.0.0/8 172.16.0.0/12", gateway, []string{"mynetworks: 172.16.0.0/12 covers a container gateway, 172.17.0.0/16"}},
		{"mynetworks", "172.17.0.1", gateway, []string{"mynetworks: 172.17.0.1/32 covers a container gateway"}},
	} {
		b := block{cfg: Defaults(), where: test.key}
		b.configure(t, test.key+"="+test.value)
		var got []string
		for _, w := range b.cfg.Lint(test.around) {
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

// TestLintRelay: a relay list that stops strangers makes up for a recipient
// list that does not.
func TestLintRelay(t *testing.T) {
	c := Defaults()
	c.Relay = words(t, "permit_sasl_authenticated, defer_unauth_destination")
	c.Recipient = words(t, "reject_non_fqdn_recipient")
	c.LocalDomains = Domains{"example.org"}
	if got := c.Lint(Surroundings{RequireAuth: true}); len(got) > 0 {
		t.Errorf("got %q", got)
	}
}
