package policy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern/internal/access"
	"postern/policy/lookup"
)

func newTestSet(t *testing.T, cfg Config) *Set {
	t.Helper()
	s, err := NewSet(cfg, &Env{Resolver: fakeDNS{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestParseArguments(t *testing.T) {
	for _, test := range []struct {
		value      any
		want, arg1 string // the list, and the first argument of its first word
	}{
		{"check_sender_access texthash:/etc/senders", "check_sender_access texthash:/etc/senders", "texthash:/etc/senders"},
		{"Check_Sender_Access,texthash:/etc/Senders,reject", "check_sender_access texthash:/etc/Senders, reject", "texthash:/etc/Senders"},
		{"warn_if_reject check_recipient_access { texthash:/etc/my senders }\nreject",
			"warn_if_reject check_recipient_access { texthash:/etc/my senders }, reject", "texthash:/etc/my senders"},
		{"check_sender_access inline:{foo@example.org=REJECT, example.net=OK} permit",
			"check_sender_access inline:{foo@example.org=REJECT, example.net=OK}, permit", "inline:{foo@example.org=REJECT, example.net=OK}"},
		{"check_sender_access {inline:{a=b}}", "check_sender_access inline:{a=b}", "inline:{a=b}"},
		{[]any{"check_sender_access texthash:/a", "reject"}, "check_sender_access texthash:/a, reject", "texthash:/a"},
		{[]any{"check_sender_access", "texthash:/a", "check_sender_access texthash:/b"}, "check_sender_access texthash:/a, check_sender_access texthash:/b", "texthash:/a"},
	} {
		var got Words
		if err := got.UnmarshalTOML(test.value); err != nil {
			t.Errorf("%q: %v", test.value, err)
			continue
		}
		if got.String() != test.want || len(got[0].Args) != 1 || got[0].Args[0] != test.arg1 {
			t.Errorf("%q: got %s with %q, want %s with %q", test.value, got, got[0].Args, test.want, test.arg1)
		}
	}
}

func TestArgumentErrors(t *testing.T) {
	const needs = " needs a lookup table after it, such as texthash:/etc/postern/senders or inline:{example.org=REJECT}"
	for list, want := range map[string]string{
		"check_sender_access":                                `"check_sender_access"` + needs,
		"check_sender_access, reject":                        `"check_sender_access"` + needs,
		"check_recipient_access warn_if_reject reject":       `"check_recipient_access"` + needs,
		"check_sender_access rejct":                          `check_sender_access: "rejct" is not a lookup table: write TYPE:NAME`,
		"check_sender_access hash:/etc/x":                    `check_sender_access: "hash:/etc/x": table type "hash" is not available yet`,
		"check_sender_access inline:{a=b":                    `"inline:{a=b" has a "{" without its "}"; add the missing brace`,
		"check_sender_access texthash:/a texthash:/b":        `"texthash:/b" is one argument too many: check_sender_access takes 1; write check_sender_access once more before it`,
		"reject texthash:/a":                                 `"texthash:/a": reject takes no argument; write check_sender_access or check_recipient_access before a lookup table`,
		"texthash:/a":                                        `"texthash:/a" is a lookup table without a restriction; write check_sender_access`,
		"check_sender_acces texthash:/a":                     `unknown restriction "check_sender_acces", did you mean "check_sender_access"?`,
		"permit_sasl_authenticated, check_client_access x:y": `unknown restriction "check_client_access"`,
	} {
		var l Words
		if err := l.UnmarshalText([]byte(list)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s:\ngot  %v\nwant %s", list, err, want)
		}
	}
}

// TestActionErrors: an action that cannot be done is refused when the table is read.
func TestActionErrors(t *testing.T) {
	for action, want := range map[string]string{
		"HOLD":                               `action HOLD is not available: there is no hold queue here; keep this table in the restrictions of the next hop, or use DEFER`,
		"hold spam":                          `action HOLD is not available`,
		"DISCARD":                            `action DISCARD is not available: a message that is accepted is never dropped here; use REJECT`,
		"FILTER smtp:[127.0.0.1]":            `action FILTER is not available: transports are chosen by the next hop`,
		"PREPEND X-Test: yes":                `action PREPEND is not available: header fields are not added here`,
		"REDIRECT a@example.org":             `action REDIRECT is not available: recipients are not changed here; use virtual_alias_maps of the next hop`,
		"BCC a@example.org":                  `action BCC is not available: recipients are not added here`,
		"INFO text":                          `action INFO is not available: use WARN, which writes its text to the log`,
		"HANGUP":                             `action HANGUP is not available`,
		"DELAY 1h":                           `action DELAY is not available`,
		"check_recipient_access texthash:/x": `"check_recipient_access texthash:/x": a lookup table cannot be part of an action`,
		"check_sender_access":                `"check_sender_access" is not an action: "check_sender_access" needs a lookup table after it`,
		"rejct":                              `"rejct" is not an action: unknown restriction "rejct", did you mean "reject"?; actions are OK, DUNNO, REJECT`,
		"550":                                `"550" permits in Postfix, as every number; write "550 TEXT" to refuse, or OK`,
		"450":                                `"450" permits in Postfix`,
		"350 text":                           `"350" is not a reply code that refuses; write "5NN TEXT" or "4NN TEXT"`,
		"warn_if_reject":                     `"warn_if_reject" is not an action: warn_if_reject needs a restriction after it`,
		",":                                  `the entry has no action; write for example REJECT`,
	} {
		cfg := Config{Sender: Words{{Name: "check_sender_access", Args: []string{"inline:{a=OK, {b = " + action + "}}"}}}}
		_, err := NewSet(cfg, &Env{})
		if err == nil || !strings.HasPrefix(err.Error(), "policy.sender: check_sender_access: inline:{a=OK, {b = ") ||
			!strings.Contains(err.Error(), `: entry 2, key "b": `+want) {
			t.Errorf("%s:\ngot  %v\nwant %s", action, err, want)
		}
	}
}

func writeTable(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "table")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestTableFiles: a file is opened once for all lists, its first invalid line is named, and Access
// lists it without opening it.
func TestTableFiles(t *testing.T) {
	path := writeTable(t, "a OK\nb REJECT\n")
	list := words(t, "check_sender_access texthash:"+path+", check_recipient_access texthash:"+path+", reject")
	s := newTestSet(t, Config{Sender: list, Recipient: list})
	var names []string
	s.Check(t.Context(), func(table string, err error) { names = append(names, fmt.Sprint(table, err)) })
	if want := "texthash:" + path + "<nil>"; strings.Join(names, " ") != want {
		t.Errorf("Check reported %q, want %s", names, want)
	}

	bad := writeTable(t, "a OK\nb HOLD\nc OK\nd DISCARD\n")
	list = words(t, "check_sender_access texthash:"+bad)
	_, err := NewSet(Config{Data: list}, &Env{})
	if want := "policy.data: check_sender_access: texthash:" + bad + `: line 2, key "b": action HOLD`; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}

	cfg := Config{Sender: words(t, "check_sender_access texthash:/none/a"), Data: words(t, "check_sender_access inline:{a=OK}, check_sender_access texthash:/none/b")}
	var l access.List
	cfg.Access("policy", &l)
	if got := fmt.Sprint(l.Reads); got != "[{policy.sender /none/a false 0} {policy.data /none/b false 0}]" {
		t.Errorf("Access listed %s", got)
	}
	if _, err := NewSet(cfg, &Env{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

// An askedTable is a table whose entries are not known before they are looked up.
type askedTable struct {
	values map[string]string
	err    error
	keys   []string
}

func (a *askedTable) String() string              { return "asked:table" }
func (a *askedTable) Check(context.Context) error { return a.err }
func (a *askedTable) Close() error                { return a.err }

func (a *askedTable) Lookup(_ context.Context, key string) (string, bool, error) {
	a.keys = append(a.keys, key)
	if a.err != nil {
		return "", false, a.err
	}
	value, ok := a.values[key]
	return value, ok, nil
}

// setWith is a Set whose recipient list asks the table, and then rejects.
func setWith(t *testing.T, table lookup.Table) *Set {
	t.Helper()
	cfg := Config{Recipient: words(t, "reject")}
	s := &Set{cfg: Config{Recipient: words(t, "check_recipient_access inline:{a=OK}, reject")}, env: (&Env{}).forSet(cfg)}
	s.env.tables["asked:table"] = table
	c, err := newRecipientAccess([]string{"asked:table"}, base{Env: s.env, spelling: "check_recipient_access asked:table", list: stageRecipient})
	if err != nil {
		t.Fatal(err)
	}
	s.lists[stageRecipient] = List{c, reject{base{Env: s.env, spelling: "reject", list: stageRecipient, reply: stageRecipient}}}
	return s
}

// TestSearchOrder: the keys of an address are looked up in the order of Postfix until one is found.
func TestSearchOrder(t *testing.T) {
	for recipient, want := range map[string]string{
		"Bob@mail.Example.org":  "Bob@mail.example.org mail.example.org example.org org Bob@",
		`"Bob"@example.org`:     "Bob@example.org example.org org Bob@",
		`"a b"@example.org`:     `"a b"@example.org a b@example.org example.org org "a b"@ a b@`,
		"bob@bücher.example":    "bob@xn--bcher-kva.example bob@bücher.example xn--bcher-kva.example bücher.example example example bob@",
		"bob@sub.found.example": "bob@sub.found.example sub.found.example found.example",
	} {
		table := &askedTable{values: map[string]string{"found.example": "REJECT"}}
		setWith(t, table).AtRcpt(t.Context(), &Request{Recipient: recipient})
		if got := strings.Join(table.keys, " "); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", recipient, got, want)
		}
	}
}

// TestLookupFails: a table that cannot be asked, or an entry that cannot be understood, defers and
// never permits.
func TestLookupFails(t *testing.T) {
	broken := errors.New("server is down")
	for _, test := range []struct {
		name  string
		table *askedTable
		reply string
		cause string
	}{
		{"no answer", &askedTable{err: broken}, "451 4.3.5 <bob@example.net>: Recipient address rejected: Server configuration error",
			`look up "bob@example.net" in asked:table: server is down`},
		{"an action that is not available", &askedTable{values: map[string]string{"net": "HOLD"}}, "451 4.3.5 Server configuration error",
			`entry "net" of asked:table: action HOLD is not available`},
		{"no action", &askedTable{values: map[string]string{"net": ""}}, "451 4.3.5 Server configuration error", "the entry has no action"},
		{"an action", &askedTable{values: map[string]string{"net": "452 4.2.2 full"}}, "452 4.2.2 <bob@example.net>: Recipient address rejected: full", ""},
		{"no entry", &askedTable{}, "554 5.7.1 <bob@example.net>: Recipient address rejected: Access denied", ""},
	} {
		s := setWith(t, test.table)
		v := s.AtRcpt(t.Context(), &Request{Recipient: "bob@example.net"})
		if got := spell(v); got != test.reply {
			t.Errorf("%s: got %s, want %s", test.name, got, test.reply)
		}
		if cause := fmt.Sprint(v.Cause); test.cause != "" && !strings.Contains(cause, test.cause) || test.cause == "" && v.Cause != nil {
			t.Errorf("%s: because of %s, want %s", test.name, cause, test.cause)
		}
		if err := s.OpenRelay(); err == nil {
			t.Errorf("%s: a table whose entries are not known is no reason for OpenRelay", test.name)
		}
	}
	if err := setWith(t, &askedTable{err: broken}).Close(); !errors.Is(err, broken) {
		t.Errorf("Close returned %v", err)
	}
}

func TestCutEnhanced(t *testing.T) {
	for text, want := range map[string]string{
		"5.7.1 text": "5.7.1|text", "5.7.1\t text": "5.7.1|text", "5.7.1: x": "no", "4.10.123": "4.10.123|", "2.0.0  a b": "2.0.0|a b",
		"": "no", "5.7": "no", "5.7.1.2 x": "no", "3.7.1 x": "no", "5.1234.1 x": "no", "5..1 x": "no", "5.7.x y": "no", "55.7.1 x": "no",
	} {
		got := "no"
		if code, rest, ok := cutEnhanced(text); ok {
			got = fmt.Sprintf("%d.%d.%d|%s", code[0], code[1], code[2], rest)
		}
		if got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}

// TestExplain returns the steps of a message up to the restriction that decides.
func TestExplain(t *testing.T) {
	path := writeTable(t, "example.net REJECT closed on Sundays\nexample.com reject_plaintext_session, permit\n")
	s := newTestSet(t, Config{
		Client:    words(t, "permit_mynetworks"),
		Sender:    words(t, "warn_if_reject reject_non_fqdn_sender"),
		Recipient: words(t, "check_recipient_access texthash:"+path+", permit_sasl_authenticated"),
		EndOfData: words(t, "reject_unknown_sender_domain"),
	})
	table := "check_recipient_access texthash:" + path
	for _, test := range []struct {
		name string
		r    Request
		want []string
	}{
		{"refused by a table", Request{Login: "alice", Sender: "alice@example.org", Recipient: "bob@example.net"}, []string{
			"client: permit_mynetworks (client invalid IP) dunno",
			"sender: warn_if_reject reject_non_fqdn_sender (sender <alice@example.org>) dunno",
			"recipient: " + table + " (recipient <bob@example.net>) reject 554 <bob@example.net>: Recipient address rejected: closed on Sundays because entry example.net REJECT closed on Sundays",
			"reject by " + table,
		}},
		{"a list in a table", Request{Login: "alice", Sender: "alice", Recipient: "bob@example.com"}, []string{
			"client: permit_mynetworks (client invalid IP) dunno",
			"sender: warn_if_reject reject_non_fqdn_sender (sender <alice>) dunno because reject_non_fqdn_sender: 504 5.5.2 <alice>: Sender address rejected: need fully-qualified address",
			"recipient: " + table + " (recipient <bob@example.com>) dunno because entry example.com reject_plaintext_session, permit",
			"recipient: " + table + ": reject_plaintext_session (client invalid IP) defer 450 Session encryption is required",
			"defer by " + table + ": reject_plaintext_session",
		}},
		{"accepted at RCPT and refused at the end of data", Request{Login: "alice", Sender: "alice@none.example.org", Recipient: "bob@example.org"}, []string{
			"client: permit_mynetworks (client invalid IP) dunno",
			"sender: warn_if_reject reject_non_fqdn_sender (sender <alice@none.example.org>) dunno",
			"recipient: " + table + " (recipient <bob@example.org>) dunno",
			`recipient: permit_sasl_authenticated (login "alice") permit`,
			"end_of_data: reject_unknown_sender_domain (sender <alice@none.example.org>) defer 450 <alice@none.example.org>: Sender address rejected: Domain not found",
			"defer by reject_unknown_sender_domain",
		}},
		{"the end of a list", Request{Sender: "alice@example.org", Recipient: "bob@example.org"}, []string{
			"client: permit_mynetworks (client invalid IP) dunno",
			"sender: warn_if_reject reject_non_fqdn_sender (sender <alice@example.org>) dunno",
			"recipient: " + table + " (recipient <bob@example.org>) dunno",
			`recipient: permit_sasl_authenticated (login "") dunno`,
			"recipient: end of recipient (recipient <bob@example.org>) reject 554 <bob@example.org>: Relay access denied",
			"reject by end of recipient",
		}},
	} {
		steps, v := s.Explain(t.Context(), &test.r)
		var got []string
		for _, step := range steps {
			got = append(got, spellStep(step))
		}
		got = append(got, v.Action.String()+" by "+v.Restriction)
		if a, b := strings.Join(got, "\n"), strings.Join(test.want, "\n"); a != b {
			t.Errorf("%s:\ngot\n%s\nwant\n%s", test.name, a, b)
		}
	}
}

func spellStep(s Step) string {
	text := fmt.Sprintf("%s: %s (%s) %s", s.List, s.Restriction, s.Input, s.Action)
	if s.Reply != nil {
		text += fmt.Sprintf(" %d %s", s.Reply.Code, s.Reply.Message)
	}
	if s.Why != "" {
		text += " because " + s.Why
	}
	return text
}
