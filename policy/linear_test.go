package policy

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"postern/test/kit"
)

// hostileAddresses are parts of an address, or an EHLO name, that a client may send.
func hostileAddresses() []kit.Shape {
	var all []kit.Shape
	for _, unit := range []string{"a", "a.", ".", "-", "xn--", "xn--a.", "%", "@", "!", `\`, `"`, "[", ":", "\u00fc", "\u4e00.", "\u0300", "\u00ad", "\u3002", "\xff", "1.", "x@"} {
		all = append(all,
			kit.Shape{Name: "domain " + unit, Make: func(n int) string { return "a@" + strings.Repeat(unit, n/len(unit)) + ".example" }},
			kit.Shape{Name: "local part " + unit, Make: func(n int) string { return strings.Repeat(unit, n/len(unit)) + "@example.org" }},
			kit.Shape{Name: "quoted " + unit, Make: func(n int) string { return `"` + strings.Repeat(unit, n/len(unit)) + `"@example.org` }})
	}
	different := func(n int) string {
		var b strings.Builder
		for r := '\u4e00'; b.Len() < n; r++ {
			b.WriteRune(r)
		}
		return b.String()
	}
	return append(all, kit.Shape{Name: "domain of different characters", Make: func(n int) string { return "a@" + different(n) + ".example" }})
}

// What a client names itself and its mail costs the policy an amount in proportion to its
// length, in the longest list.
func TestPolicyIsLinear(t *testing.T) {
	cfg := Defaults()
	cfg.LocalDomains = Domains{"example.org"}
	cfg.Helo = words(t, "reject_invalid_helo_hostname, reject_non_fqdn_helo_hostname")
	cfg.Sender = words(t, "check_sender_access inline:{example.net=REJECT}, reject_non_fqdn_sender")
	cfg.Recipient = words(t, "check_recipient_access inline:{example.net=REJECT}, reject_non_fqdn_recipient, permit_auth_destination, reject")
	for i := range cfg.Helo {
		cfg.Helo[i].Warn = true // the lists after it are evaluated, too
	}
	set, err := NewSet(cfg, &Env{})
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	kit.LinearGrowth(t, hostileAddresses(), 256, func(text string) func() {
		return func() {
			set.AtRcpt(context.Background(), &Request{Remote: netip.MustParseAddrPort("192.0.2.1:25"), Helo: text, Sender: text, Recipient: text})
			set.AtRcpt(context.Background(), &Request{Remote: netip.MustParseAddrPort("192.0.2.1:25"), Sender: text, Recipient: "a@example.org"})
			set.AtRcpt(context.Background(), &Request{Remote: netip.MustParseAddrPort("192.0.2.1:25"), Sender: "a@example.org", Recipient: text})
		}
	})
}
