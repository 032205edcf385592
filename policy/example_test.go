package policy_test

import (
	"context"
	"fmt"
	"net"

	"postern/policy"
)

// newSet builds a Set from two lists in the form in which they are configured.
func newSet(sender, recipient string) *policy.Set {
	cfg := policy.Defaults()
	for list, text := range map[*policy.Words]string{&cfg.Sender: sender, &cfg.Recipient: recipient} {
		if err := list.UnmarshalText([]byte(text)); err != nil {
			panic(err)
		}
	}
	set, err := policy.NewSet(cfg, &policy.Env{Resolver: net.DefaultResolver})
	if err != nil {
		panic(err)
	}
	return set
}

func ExampleNewSet() {
	cfg := policy.Defaults()
	if err := cfg.Recipient.UnmarshalText([]byte("permit_sasl_authenticated, rejct")); err != nil {
		fmt.Println(err)
	}
	if err := cfg.Recipient.UnmarshalText([]byte("permit_sasl_authenticated, reject")); err != nil {
		fmt.Println(err)
	}
	set, err := policy.NewSet(cfg, &policy.Env{Resolver: net.DefaultResolver})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer set.Close()
	fmt.Println(cfg.Recipient)
	// Output:
	// unknown restriction "rejct", did you mean "reject"?
	// permit_sasl_authenticated, reject
}

func ExampleSet_AtRcpt() {
	set := newSet("", "check_recipient_access inline:{{example.net=REJECT We do not write there}}, permit_sasl_authenticated, reject")
	defer set.Close()
	for _, r := range []policy.Request{
		{Login: "alice", Sender: "alice@example.org", Recipient: "bob@example.com"},
		{Login: "alice", Sender: "alice@example.org", Recipient: "bob@example.net"},
		{Sender: "alice@example.org", Recipient: "bob@example.com"},
	} {
		v := set.AtRcpt(context.Background(), &r)
		fmt.Println(v.Action, v.Reply)
	}
	// Output:
	// permit <nil>
	// reject SMTP error 554: <bob@example.net>: Recipient address rejected: We do not write there
	// reject SMTP error 554: <bob@example.com>: Recipient address rejected: Access denied
}

func ExampleSet_Explain() {
	set := newSet("check_sender_access inline:{example.org=DUNNO, {<>=451 4.7.1 No bounces now}}", "permit_sasl_authenticated, reject")
	defer set.Close()
	steps, v := set.Explain(context.Background(), &policy.Request{
		Login: "alice", Sender: "alice@example.org", Recipient: "bob@example.net",
	})
	for _, s := range steps {
		fmt.Printf("%s: %s: %s %q\n", s.List, s.Input, s.Action, s.Why)
	}
	fmt.Println(v.Action, "by", v.Restriction)
	// Output:
	// sender: sender <alice@example.org>: dunno "entry example.org DUNNO"
	// recipient: login "alice": permit ""
	// permit by permit_sasl_authenticated
}

func ExampleConfig_Lint() {
	cfg := policy.Defaults()
	if err := cfg.Recipient.UnmarshalText([]byte("permit_mynetworks, permit_sasl_authenticated")); err != nil {
		panic(err)
	}
	for _, w := range cfg.Lint(policy.Context{RequireAuth: true}) {
		fmt.Printf("%s: %s\n", w.Key, w.Text)
	}
	// Output:
	// recipient: permit_mynetworks permits no client without a login, since the listener requires authentication; remove it or set require_auth = false
	// recipient: the list does not end in reject; add it, so that only what is permitted before it is accepted
}
