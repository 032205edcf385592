package policy

import (
	"reflect"
	"strings"
	"testing"

	"postern/internal/text"
)

func TestParseWords(t *testing.T) {
	want := Words{{Name: "permit_sasl_authenticated"}, {Name: "reject"}}
	for _, text := range []string{
		"permit_sasl_authenticated,reject",
		"permit_sasl_authenticated, reject",
		" permit_sasl_authenticated\n\treject\r\n",
		",,permit_sasl_authenticated , reject,",
		"PERMIT_SASL_Authenticated Reject",
	} {
		var got Words
		if err := got.UnmarshalText([]byte(text)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %v, %v", text, got, err)
		}
	}
}

func TestParseForms(t *testing.T) {
	for _, test := range []struct {
		value any
		want  string
	}{
		{"reject_plaintext_session, reject", "reject_plaintext_session, reject"},
		{[]any{"reject_plaintext_session", "reject"}, "reject_plaintext_session, reject"},
		{[]any{"warn_if_reject", "reject"}, "warn_if_reject reject"},
		{[]any{"warn_if_reject reject", "permit"}, "warn_if_reject reject, permit"},
		{"warn_if_reject,warn_if_reject,reject", "warn_if_reject reject"},
		{[]any{}, ""},
		{"", ""},
	} {
		var got Words
		if err := got.UnmarshalTOML(test.value); err != nil {
			t.Errorf("%q: %v", test.value, err)
		}
		if got == nil {
			t.Errorf("%q: the list is present and was decoded as absent", test.value)
		}
		if got.String() != test.want {
			t.Errorf("%q: got %q, want %q", test.value, got, test.want)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for _, test := range []struct {
		value any
		want  string
	}{
		{"permit_sasl_autenticated", `unknown restriction "permit_sasl_autenticated", did you mean "permit_sasl_authenticated"?`},
		{"permit, rejct", `unknown restriction "rejct", did you mean "reject"?`},
		{"permit_sasl", `unknown restriction "permit_sasl", did you mean "permit_sasl_authenticated"?`},
		{"reject_unauth_destinations", `unknown restriction "reject_unauth_destinations", did you mean "reject_unauth_destination"?`},
		{"warn_if_rejected reject", `unknown restriction "warn_if_rejected", did you mean "warn_if_reject"?`},
		{"sleep", `unknown restriction "sleep"; available are: ` + strings.Join(names(), " ")},
		{"permit, warn_if_reject", "warn_if_reject needs a restriction after it"},
		{"smtpd_client_restrictions=permit", `"smtpd_client_restrictions=permit": remove the name of the option and write only what follows its "="`},
		{"$mua_client_restrictions", `"$mua_client_restrictions": variables of main.cf are not available here; write their value`},
		{"hash:/etc/postfix/access", `"hash:/etc/postfix/access" is a lookup table without a restriction; write check_sender_access or check_recipient_access before it`},
		{[]any{"permit", int64(1)}, "element 2 is 1, expected a string in quotes"},
		{int64(587), `587 is neither a string ("a, b") nor an array of strings (["a", "b"])`},
		{true, `true is neither a string ("a, b") nor an array of strings (["a", "b"])`},
	} {
		words := Words{{Name: "reject"}}
		err := words.UnmarshalTOML(test.value)
		if err == nil || err.Error() != test.want {
			t.Errorf("%v:\ngot  %v\nwant %s", test.value, err, test.want)
		}
		if words.String() != "reject" {
			t.Errorf("%v: an invalid value changed the list to %q", test.value, words)
		}
	}
}

func TestNearest(t *testing.T) {
	for written, want := range map[string]string{
		"permti":          "permit",
		"Reject":          "reject",
		"refer":           "defer",
		"permit_":         "permit",
		"permit_my":       "permit_mynetworks",
		"reject_unauth_d": "reject_unauth_destination",
		"x":               "",
		"":                "",
		"completely":      "",
	} {
		if got := nearest(written); got != want {
			t.Errorf("nearest(%q) = %q, want %q", written, got, want)
		}
	}
}

func FuzzParseWords(f *testing.F) {
	for _, seed := range []string{
		"permit_sasl_authenticated,reject",
		"warn_if_reject reject, permit",
		"warn_if_reject\twarn_if_reject\r\nDEFER",
		"permit_sasl_autenticated",
		"warn_if_reject",
		"a=b $c hash:d {e}",
		"check_sender_access texthash:/a, check_recipient_access { texthash:/b c }",
		"warn_if_reject check_sender_access inline:{a=OK, { b = REJECT x, y }} permit",
		"ſender\x00, \xff",
		"",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var first, second Words
		if first.UnmarshalText([]byte(text)) != nil {
			return
		}
		if err := second.UnmarshalText([]byte(first.String())); err != nil {
			t.Fatalf("%q was parsed, but its String %q was not: %v", text, first, err)
		}
		if !reflect.DeepEqual(first, second) {
			t.Fatalf("%q: %v became %v", text, first, second)
		}
		if strings.Contains(text, ":") {
			return // a table may be missing, or have an entry that is not an action
		}
		if _, err := NewSet(Config{Recipient: first}, &Env{Resolver: fakeDNS{}}); err != nil {
			t.Fatalf("%q was parsed, but not built: %v", text, err)
		}
	})
}

func FuzzNetworksAndDomains(f *testing.F) {
	for _, seed := range []string{
		"127.0.0.0/8 [::1]/128, 192.0.2.7", "::ffff:192.0.2.1", "fe80::1%eth0/64", "10.0.0.1/8",
		"example.org, .example.org", "grüße.example.org", "xn--a.", "..", "",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, input string) {
		var n Networks
		if n.UnmarshalText([]byte(input)) == nil {
			for _, p := range n {
				if !p.IsValid() || p != p.Masked() || !n.contain(p.Addr()) {
					t.Errorf("%q gave the network %v", input, p)
				}
			}
		}
		var d Domains
		if d.UnmarshalText([]byte(input)) == nil {
			for _, name := range d {
				if !text.IsASCII(name) || name != strings.ToLower(name) {
					t.Errorf("%q gave the domain %q", input, name)
				}
			}
		}
	})
}
