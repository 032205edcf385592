package policy

import (
	"reflect"
	"strings"
	"testing"
)

func TestDefaults(t *testing.T) {
	c := Defaults()
	c.Validate(func(key, why string) { t.Errorf("%s: %s", key, why) })
	for _, w := range c.Lint(Context{RequireAuth: true}) {
		t.Errorf("%s: %s", w.Key, w.Text)
	}
	if got := c.Recipient.String(); got != "permit_sasl_authenticated, reject" {
		t.Errorf("recipient = %s", got)
	}
}

func TestValidate(t *testing.T) {
	for _, test := range []struct {
		name string
		cfg  Config
		want []string
	}{
		{"private networks", Config{MyNetworks: networks(t, "10.0.0.0/8 fc00::/7 127.0.0.1")}, nil},
		{"the IPv4 Internet", Config{MyNetworks: networks(t, "0.0.0.0/0")},
			[]string{"mynetworks: 0.0.0.0/0 trusts a large part of the Internet; name the networks of your own clients"}},
		{"half of it", Config{MyNetworks: networks(t, "128.0.0.0/1")},
			[]string{"mynetworks: 128.0.0.0/1 trusts a large part of the Internet; name the networks of your own clients"}},
		{"the IPv6 Internet", Config{MyNetworks: networks(t, "2000::/3")},
			[]string{"mynetworks: 2000::/3 trusts a large part of the Internet; name the networks of your own clients"}},
		{"a domain twice", Config{LocalDomains: Domains{"example.org"}, RelayDomains: Domains{"example.com", "example.org"}},
			[]string{"relay_domains: example.org is in local_domains too; remove it from one of them"}},
	} {
		var got []string
		test.cfg.Validate(func(key, why string) { got = append(got, key+": "+why) })
		if !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s:\ngot  %q\nwant %q", test.name, got, test.want)
		}
	}
}

func networks(t *testing.T, text string) (n Networks) {
	t.Helper()
	if err := n.UnmarshalText([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return n
}

func words(t *testing.T, text string) (l Words) {
	t.Helper()
	if err := l.UnmarshalText([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return l
}

func TestNetworkErrors(t *testing.T) {
	for text, want := range map[string]string{
		"example.org":          `"example.org" is neither an address nor a network; write it as 192.0.2.7, 192.0.2.0/24 or [2001:db8::]/32`,
		"192.0.2.0/33":         `"192.0.2.0/33" is neither an address`,
		"19[2.0.2.1":           `"19[2.0.2.1" is neither an address`,
		"[192.0.2.1":           `"[192.0.2.1" is neither an address`,
		"!192.0.2.1":           `"!192.0.2.1" is neither an address`,
		"192.0.2.1/24":         `"192.0.2.1/24" has address bits after its prefix length; write 192.0.2.0/24 for the network`,
		"[2001:db8::1]/32":     `"[2001:db8::1]/32" has address bits after its prefix length; write 2001:db8::/32 for the network`,
		"::ffff:192.0.2.0/120": `"::ffff:192.0.2.0/120": write it as an IPv4 network`,
	} {
		var n Networks
		if err := n.UnmarshalTOML([]any{text}); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q:\ngot  %v\nwant %s", text, err, want)
		}
	}
	var n Networks
	if err := n.UnmarshalTOML(int64(1)); err == nil {
		t.Error("a number was accepted as a network")
	}
}

func TestDomains(t *testing.T) {
	var d Domains
	if err := d.UnmarshalTOML([]any{"Example.ORG.", ".grüße.example.org", "localhost"}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(d, " "); got != "example.org .xn--gre-6ka8l.example.org localhost" {
		t.Errorf("got %s", got)
	}
	for _, text := range []string{"alice@example.org", "hash:/etc/domains", "*.example.org", "192.0.2.1", ".", "..example.org"} {
		err := d.UnmarshalText([]byte(text))
		if err == nil || !strings.HasSuffix(err.Error(), ` is not a domain name: write "example.org", or ".example.org" for everything below it`) {
			t.Errorf("%q: got %v", text, err)
		}
	}
	if err := d.UnmarshalTOML(true); err == nil {
		t.Error("a boolean was accepted as a domain")
	}
}
