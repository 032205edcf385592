package config

import (
	"bytes"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"unicode"

	"postern/certs"
	"postern/policy"
	"postern/relay"
	"postern/server"
)

func TestEmptyFileIsTheDefaults(t *testing.T) {
	cfg, err := Parse("config.toml", "")
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(cfg, Default()) {
		t.Errorf("an empty file gives %+v", cfg)
	}
}

var update = flag.Bool("update", false, "write the .err files anew")

// Each testdata/errors/NAME.toml has one kind of mistake, and NAME.err has the error for
// it. go test -update writes the .err files.
func TestConfigErrors(t *testing.T) {
	files, err := filepath.Glob("testdata/errors/*.toml")
	if err != nil || len(files) == 0 {
		t.Fatal("no files in testdata/errors", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) { checkConfigError(t, file) })
	}
}

func checkConfigError(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Parse(filepath.Base(file), string(text))
	var broken *Error
	if !errors.As(err, &broken) {
		t.Fatalf("got %v, want a *Error", err)
	}
	got := broken.Error() + "\n"
	golden := strings.TrimSuffix(file, ".toml") + ".err"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestMissingFile(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "config.toml"))
	if err == nil || !strings.Contains(err.Error(), "config.toml.example") || !strings.Contains(err.Error(), "--config") {
		t.Errorf("got %v, want what to do about it", err)
	}
}

func TestLargeFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.toml")
	must(t, os.WriteFile(file, bytes.Repeat([]byte("# \n"), maxSize/3+1), 0o600))
	_, err := Load(file)
	if err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("got %v", err)
	}
}

// A file of a Windows editor is valid.
func TestByteOrderMarkAndCRLF(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(file, []byte("\ufeff[log]\r\nlevel = \"debug\"\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Log.Level.String() != "debug" {
		t.Errorf("level is %v", cfg.Log.Level)
	}
}

// A list in the file replaces the default one, and does not write into its array.
func TestListsReplaceTheDefault(t *testing.T) {
	cfg, err := Parse("config.toml", `
[[listener]]
name = "inside"
address = ["127.0.0.1:1587"]

[relay]
next_hops = ["smtp://192.0.2.1:25"]
`)
	if err != nil {
		t.Fatal(err)
	}
	want := server.NewListener()
	want.Name, want.Address = "inside", []string{"127.0.0.1:1587"}
	if len(cfg.Listeners) != 1 || !reflect.DeepEqual(cfg.Listeners[0].Listener, want) {
		t.Errorf("listeners are %+v", cfg.Listeners)
	}
	if len(cfg.Relay.NextHops) != 1 || cfg.Relay.NextHops[0].String() != "smtp://192.0.2.1:25" {
		t.Errorf("next hops are %v", cfg.Relay.NextHops)
	}
	if !reflect.DeepEqual(Default().Relay.NextHops, relay.Defaults().NextHops) {
		t.Error("the defaults have changed")
	}
}

const inheriting = `
[[listener]]
name = "submission"
address = [":587"]

[[listener]]
name = "printers"
address = ["192.0.2.1:587"]
require_auth = false
policy.recipient = "permit_mynetworks,reject"
policy.mynetworks = "192.0.2.64/26"
policy.sender = []
auth.realm = "printers.example.org"
auth.stores = [{ kind = "userfile", path = "/etc/postern/printers" }]
relay.next_hops = ["smtp://192.0.2.9:25"]
relay.pool.connections = 2
[[listener.tls.certificates]]
cert = "/etc/postern/printers.pem"
key = "/etc/postern/printers.key"
[[listener.relay.dkim]]
domain = "printers.example.org"
selector = "p1"
key = "/etc/postern/p1.pem"

[tls]
min_version = "1.3"
[auth]
failures_per_connection = 5
mechanisms = ["PLAIN"]
[[auth.stores]]
kind = "saslauthd"
[policy]
sender = "reject_non_fqdn_sender"
helo = "reject_invalid_helo_hostname"
[relay]
patience = "20s"
helo_name = "out.example.org"
[relay.pool]
messages = 7
`

// A listener takes the keys that it leaves out from the shared section, which may come
// after it in the file.
func TestListenerInherits(t *testing.T) {
	cfg, err := Parse("config.toml", inheriting)
	if err != nil {
		t.Fatal(err)
	}
	shared, own := cfg.Listeners[0], cfg.Listeners[1]
	for name, same := range map[string]bool{
		"tls": reflect.DeepEqual(shared.TLS, cfg.TLS), "auth": reflect.DeepEqual(shared.Auth, cfg.Auth),
		"policy": reflect.DeepEqual(shared.Policy, cfg.Policy), "relay": reflect.DeepEqual(shared.Relay, cfg.Relay),
	} {
		if !same {
			t.Errorf("the first listener does not have the shared section %s", name)
		}
	}
	for what, got := range map[string][2]any{
		"tls.min_version":     {own.TLS.MinVersion.String(), "1.3"},
		"tls.certificates":    {own.TLS.Certificates, []certs.Pair{{Cert: "/etc/postern/printers.pem", Key: "/etc/postern/printers.key"}}},
		"auth.realm":          {own.Auth.Realm + "," + cfg.Auth.Realm, "printers.example.org,"},
		"auth.failures":       {own.Auth.FailuresPerConnection, 5},
		"auth.mechanisms":     {len(own.Auth.Mechanisms), 1},
		"auth.stores":         {len(own.Auth.Stores), 1},
		"store":               {own.Auth.Stores[0].String(), "userfile /etc/postern/printers"},
		"shared store":        {cfg.Auth.Stores[0].Kind, "saslauthd"},
		"policy.recipient":    {own.Policy.Recipient.String(), "permit_mynetworks, reject"},
		"policy.sender":       {own.Policy.Sender.String(), ""},
		"policy.helo":         {own.Policy.Helo.String(), "reject_invalid_helo_hostname"},
		"relay.next_hops":     {len(own.Relay.NextHops), 1},
		"next hop":            {own.Relay.NextHops[0].String(), "smtp://192.0.2.9:25"},
		"shared next hop":     {cfg.Relay.NextHops[0].String(), "smtp://localhost:25"},
		"relay.helo_name":     {own.Relay.HeloName, "out.example.org"},
		"relay.pool":          {own.Relay.Pool.Connections, 2},
		"relay.pool.messages": {own.Relay.Pool.Messages, 7},
		"shared pool":         {cfg.Relay.Pool.Connections, relay.Defaults().Pool.Connections},
		"relay.dkim":          {len(own.Relay.DKIM), 1},
		"shared dkim":         {len(cfg.Relay.DKIM), 0},
	} {
		if !reflect.DeepEqual(got[0], got[1]) {
			t.Errorf("%s: %v, want %v", what, got[0], got[1])
		}
	}
}

// For each key of the policy, a listener that leaves it out has the shared value, and an
// empty list replaces it.
func TestListenerReplacesEachListOfThePolicy(t *testing.T) {
	for key := range fieldsOf(reflect.ValueOf(policy.Config{})) {
		value := map[string]string{"mynetworks": "192.0.2.0/24", "relay_domains": "example.org", "local_domains": "example.org"}[key]
		text := fmt.Sprintf("[policy]\n%s = [%q]\n[[listener]]\nname = \"a\"\naddress = [\":1\"]\n[[listener]]\nname = \"b\"\naddress = [\":2\"]\npolicy.%[1]s = []\n",
			key, cmp.Or(value, "reject"))
		cfg, err := Parse("test", text)
		if err != nil {
			t.Errorf("%s: %v", key, err)
			continue
		}
		length := func(c policy.Config) int { return fieldsOf(reflect.ValueOf(c))[key].Len() }
		if a, b := length(cfg.Listeners[0].Policy), length(cfg.Listeners[1].Policy); a != 1 || b != 0 {
			t.Errorf("%s: %d and %d elements, want 1 and 0", key, a, b)
		}
	}
}

// Sections that several listeners use appear once, and one that none uses does not.
func TestSections(t *testing.T) {
	const two = "[[listener]]\nname = \"a\"\naddress = [\":1\"]\n%s\n[[listener]]\nname = \"b\"\naddress = [\":2\"]\n%s\n%s"
	const hop = `relay.next_hops = ["smtp://192.0.2.1:25"]`
	for _, test := range []struct{ a, b, more, want string }{
		{"", "", "", "relay"},
		{hop, "", "", "listener[0].relay relay"},
		{"", hop, "", "relay listener[1].relay"},
		{hop, hop, "", "listener[0].relay"},
		{hop, hop, "[relay]\nspool = \"/var/spool/postern\"\n", "relay listener[0].relay"},
	} {
		cfg, err := Parse("test", fmt.Sprintf(two, test.a, test.b, test.more))
		must(t, err)
		var got []string
		for path := range cfg.RelaySections() {
			got = append(got, path)
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%q and %q: sections %q, want %s", test.a, test.b, got, test.want)
		}
	}
}

// The place of a key is found by the path that Validate and the decoder use, in a file
// with all kinds of strings, comments, dotted keys and nested arrays.
func TestLocate(t *testing.T) {
	text := strings.ReplaceAll(`# key = "comment"
top = 'it''s'
[a] # [not.this]
"quoted key" = """
[b]
key = "in a string \""" # ] """
b.c = [ 1, # one
  "]", { x = 1, y = [2] } ]
[[list]]
one = 2026-01-02 03:04:05 # date
[[list]]
[list.sub]
key.dotted = +inf
[[list.sub.deep]]
last = true`, "''", "")
	want := map[string]string{
		"top":                         "top",
		"a":                           "a",
		"a.quoted key":                `"quoted key"`,
		"a.b.c":                       "b.c",
		"a.b.c[2].y":                  "y",
		"list":                        "list",
		"list[0].one":                 "one",
		"list[1]":                     "list",
		"list[1].sub.key.dotted":      "key.dotted",
		"list[1].sub.deep[0].last":    "last",
		"list[1].sub.deep[0].missing": "list.sub.deep",
	}
	places := locate(text)
	for path, key := range want {
		if got := places.find(path).key.of(text); got != key {
			t.Errorf("%s is at %q, want %q", path, got, key)
		}
	}
	values := map[string]string{
		"list[0].one":            "2026-01-02 03:04:05",
		"a.b.c[0]":               "1",
		"a.b.c[1]":               `"]"`,
		"a.b.c[2].y[0]":          "2",
		"list[1].sub.key.dotted": "+inf",
	}
	for path, value := range values {
		if got := places.find(path).value.of(text); got != value {
			t.Errorf("%s has the value %q, want %q", path, got, value)
		}
	}
	if _, ok := places["b.key"]; ok {
		t.Error("a key was found in a string")
	}
}

func FuzzConfig(f *testing.F) {
	for _, pattern := range []string{"testdata/errors/*.toml", "../../../../config.toml.example"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(string(text))
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		for path, e := range locate(text) {
			for _, s := range []span{e.key, e.value} {
				if s.start < 0 || s.start > s.end || s.end > len(text) {
					t.Fatalf("%s is at %v of %d", path, s, len(text))
				}
			}
		}
		cfg, err := Parse("config.toml", text)
		if (cfg == nil) == (err == nil) {
			t.Fatalf("config %v, error %v", cfg, err)
		}
		if err != nil && strings.ContainsFunc(err.Error(), unprintable) {
			t.Fatalf("%q would control a terminal", err.Error())
		}
	})
}

func unprintable(r rune) bool { return r != '\n' && r != '\t' && !unicode.IsPrint(r) }
