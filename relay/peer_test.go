package relay

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"postern/relay/relaytest"
	"postern/test/kit"
)

// A message can be sent to every kind of hop, with and without a login.
func TestKindsOfHop(t *testing.T) {
	config, ca := certificate(t)
	password := writeFile(t, "postern:topsecret\n", 0o600)
	for name, o := range map[string]relaytest.Options{
		"clear text":          {},
		"clear text, login":   {User: "postern", Password: "topsecret"},
		"socket":              {Unix: true},
		"STARTTLS":            {TLS: config},
		"STARTTLS, PLAIN":     {TLS: config, User: "postern", Password: "topsecret", Mechanisms: "CRAM-MD5 PLAIN"},
		"STARTTLS, LOGIN":     {TLS: config, User: "postern", Password: "topsecret", Mechanisms: "login"},
		"implicit TLS":        {TLS: config, Implicit: true},
		"implicit TLS, PLAIN": {TLS: config, Implicit: true, User: "postern", Password: "topsecret"},
	} {
		t.Run(name, func(t *testing.T) {
			hop := relaytest.New(t, o)
			r := newRouter(t, func(c *Config) { c.CAFile, c.Credentials = ca, password }, hop)
			if err := probe(t, r); err != nil {
				t.Fatal(err)
			}
			deliver(t, r, relaytest.Stage(t, testMail))
			for _, line := range hop.Commands() {
				if strings.Contains(line, "EHLO") && !strings.HasSuffix(line, "EHLO postern.example.org") {
					t.Errorf("sent %q", line)
				}
			}
		})
	}
}

// probe asks the first hop, and returns its error with the next step.
func probe(t *testing.T, r *Router) error {
	t.Helper()
	hop := r.Hops()[0]
	a := hop.Probe(t.Context(), "alice@example.org", "bob@example.com")[0]
	if a.Err != nil {
		return fmt.Errorf("%s: %w: %s", hop, a.Err, a.Step)
	}
	return nil
}

// The error for each fault of a hop contains the next step, and is temporary for the client.
func TestCheck(t *testing.T) {
	t.Parallel()
	config, ca := certificate(t)
	_, otherCA := certificate(t)
	wrong := writeFile(t, "postern:wrong\n", 0o600)
	greet := func(a relaytest.Answer) func(relaytest.Command) relaytest.Answer { return on("CONNECT", a) }
	tests := []struct {
		name    string
		options relaytest.Options
		handle  func(relaytest.Command) relaytest.Answer
		change  func(*Config)
		hint    string
	}{
		{"unknown CA", relaytest.Options{TLS: config}, nil, func(c *Config) { c.CAFile = otherCA }, "relay.ca_file"},
		{"no STARTTLS", relaytest.Options{TLS: config}, on("EHLO", relaytest.Say("250-hop", "250 DSN")), nil, "write smtp://"},
		{"STARTTLS refused", relaytest.Options{TLS: config}, on("STARTTLS", relaytest.Say("454 4.7.0 TLS not available")), nil, "454 4.7.0 TLS not available"},
		{"STARTTLS injection", relaytest.Options{TLS: config}, on("STARTTLS", relaytest.Raw("220 Ready\r\n250 injected\r\n")), nil, errOutOfStep.Error()},
		{"no TLS at all", relaytest.Options{}, greet(relaytest.Say("220 hop ESMTP").AndHangUp()), func(c *Config) { c.NextHops[0].Scheme = schemeTLS }, "does not speak TLS"},
		{"bad password", relaytest.Options{User: "postern", Password: "topsecret"}, nil, func(c *Config) { c.Credentials = wrong }, "relay.credentials"},
		{"unknown mechanisms", relaytest.Options{User: "postern", Mechanisms: "CRAM-MD5 XOAUTH2"}, nil, func(c *Config) { c.Credentials = wrong }, "PLAIN and LOGIN"},
		{"busy", relaytest.Options{}, greet(relaytest.Say("421 4.3.2 Busy")), nil, "421 4.3.2 Busy"},
		{"refused", relaytest.Options{}, greet(relaytest.Say("554 5.7.1 Go away")), nil, "mynetworks"},
		{"refused before TLS", relaytest.Options{TLS: config}, greet(relaytest.Say("554 5.7.1 Go away")), nil, "mynetworks"},
		{"EHLO refused", relaytest.Options{}, on("EHLO", relaytest.Say("550 5.7.1 Bad name")), nil, "550 5.7.1 Bad name"},
		{"silent", relaytest.Options{}, greet(relaytest.Stall()), nil, "smtps://"},
		{"no SMTP server", relaytest.Options{}, greet(relaytest.Say("HTTP/1.1 400 Bad Request")), nil, "port of an SMTP server"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			hop := relaytest.New(t, tt.options)
			hop.Handle(tt.handle)
			r := newRouter(t, func(c *Config) {
				c.CAFile, c.Patience, c.ConnectTimeout = ca, 0, soon
				if tt.change != nil {
					tt.change(c)
				}
			}, hop)
			err := probe(t, r)
			if err == nil || !strings.Contains(err.Error(), tt.hint) || !strings.Contains(err.Error(), r.Hops()[0].String()) {
				t.Errorf("got %v, want %q in it", err, tt.hint)
			}
			if err != nil && strings.Contains(err.Error(), "topsecret") {
				t.Errorf("the error shows the password: %v", err)
			}
			wantTemporary(t, begin(t, r).Rcpt(t.Context(), "bob@example.com", nil))
		})
	}
}

func TestCheckUnreachable(t *testing.T) {
	for address, hint := range map[string]string{
		"smtp://" + kit.Addr(t):          "nothing listens there",
		"smtp+unix:///nowhere/at/all":    "no such socket",
		"smtp://no-such-host.invalid":    "correct it in relay.next_hops",
		"smtp+unix://" + lockedSocket(t): "give write access",
	} {
		r := newRouter(t, func(c *Config) { c.NextHops, c.Patience = []HopURL{mustURL(t, address)}, 0 })
		err := probe(t, r)
		if os.Getuid() == 0 && strings.Contains(hint, "give write access") {
			continue // root may open every socket
		}
		if err == nil || !strings.Contains(err.Error(), hint) {
			t.Errorf("%s: got %v, want %q in it", address, err, hint)
		}
	}
}

func lockedSocket(t *testing.T) string {
	t.Helper()
	hop := relaytest.New(t, relaytest.Options{Unix: true})
	name := strings.TrimPrefix(hop.URL(), "smtp+unix://")
	chmod(t, name, 0)
	return name
}

// verify = false has an effect for loopback only, even if Validate was not called.
func TestVerifyIsOffForLoopbackOnly(t *testing.T) {
	cfg := Defaults()
	cfg.Verify = false
	for address, off := range map[string]bool{"smtps://localhost": true, "smtps://[::1]": true, "smtps://mail.example.org": false} {
		p, err := newPeer(mustURL(t, address), &cfg)
		if err != nil || p.tls.InsecureSkipVerify != off {
			t.Errorf("%s: %v, %v", address, p.tls.InsecureSkipVerify, err)
		}
	}
}

func TestUnreadableFiles(t *testing.T) {
	for key, change := range map[string]func(*Config){
		"relay.ca_file":     func(c *Config) { c.CAFile = "/nowhere/at/all" },
		"no block in PEM":   func(c *Config) { c.CAFile = writeFile(t, "nonsense", 0o600) },
		"relay.credentials": func(c *Config) { c.Credentials = "/nowhere/at/all" },
	} {
		cfg := Defaults()
		change(&cfg)
		r, err := New(cfg, nil)
		if err == nil {
			r.Close()
		}
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("got %v, want %q in it", err, key)
		}
	}
}

func TestOnThisMachine(t *testing.T) {
	urls := map[string]bool{
		"smtp://localhost":        true,
		"smtp://127.0.0.9:10587":  true,
		"smtp+unix:///run/x":      true,
		"smtp://192.0.2.1":        false,
		"smtp://[2001:db8::1]:25": false,
		"smtp://hop.invalid":      false,
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range own {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr().Zone() == "" {
			urls["smtp://"+net.JoinHostPort(prefix.Addr().String(), "25")] = true
		}
	}
	for u, want := range urls {
		h := &Hop{pool: &pool{peer: &peer{url: mustURL(t, u)}}}
		if got := h.OnThisMachine(t.Context()); got != want {
			t.Errorf("%s: %v, want %v", u, got, want)
		}
	}
}

func TestCredentials(t *testing.T) {
	for in, want := range map[string][2]string{
		"alice:topsecret\n":      {"alice", "topsecret"},
		"alice:topsecret":        {"alice", "topsecret"},
		"alice:top:secret\r\n":   {"alice", "top:secret"},
		"alice\ntopsecret\n":     {"alice", "topsecret"},
		"alice\r\ntopsecret\r\n": {"alice", "topsecret"},
		"a:b\ntop:secret\n":      {"a:b", "top:secret"},
		"alice: topsecret \n":    {"alice", " topsecret "},
	} {
		c, err := readCredentials(writeFile(t, in, 0o640))
		if err != nil || c.user != want[0] || c.password != want[1] {
			t.Errorf("%q: %v, %v", in, c, err)
		}
	}
	for _, in := range []string{"", "\n", "topsecret", ":topsecret", "alice:", "alice\n", "a\ntopsecret\nc", "a\x00:topsecret", strings.Repeat("topsecret", 1000)} {
		_, err := readCredentials(writeFile(t, in, 0o600))
		if err == nil || strings.Contains(err.Error(), "topsecret") {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestCredentialsFile(t *testing.T) {
	for mode, ok := range map[uint32]bool{0o600: true, 0o640: true, 0o400: true, 0o644: true /* in a private folder */, 0o602: false} {
		name := writeFile(t, "alice:topsecret", 0o600)
		chmod(t, name, mode)
		_, err := readCredentials(name)
		if ok != (err == nil) || err != nil && !strings.Contains(err.Error(), "chmod o-w "+name) {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	if _, err := readCredentials("/nowhere/at/all"); err == nil || !strings.Contains(err.Error(), "/nowhere/at/all") {
		t.Errorf("missing: %v", err)
	}
}

func TestSecretIsNotPrinted(t *testing.T) {
	c := &credentials{"alice", "topsecret"}
	p := &peer{credentials: c}
	var log kit.LogBuffer
	log.Logger().Info("m", "c", c, "d", *c, "p", p)
	printed := fmt.Sprintf("%v %+v %#v %s %+v %+v %#v", c, c, c, *c, *c, p, p) + log.String()
	if strings.Contains(printed, "topsecret") {
		t.Error(printed)
	}
}
