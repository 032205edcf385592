package test

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xdg-go/scram"

	"postern/test/kit"
)

// startScram starts a postern with SCRAM keys that "postern passwd" has made.
func startScram(t *testing.T) *postern {
	t.Helper()
	path := filepath.Join(kit.OpenDir(t), "users")
	write(t, path, "bob:"+hash+"\n")
	setUserfilePassword(t, path, "alice", password)
	return startPostern(t, posternOptions{
		NextHop:  "smtp://" + startSink(t).Addr,
		Sections: map[string]string{"auth": exempt},
		Stores:   fmt.Sprintf("mechanisms = %s\n[[auth.stores]]\nkind = \"userfile\"\npath = %q\n", ownMechanisms, path),
	})
}

var tlsVersions = map[string]uint16{"TLS1.2": tls.VersionTLS12, "TLS1.3": tls.VersionTLS13}

// SCRAM by GNU SASL, which checks the proof of the server. Its channel binding is
// tls-exporter on TLS 1.3 and tls-unique on TLS 1.2.
func TestScramByGsasl(t *testing.T) {
	t.Parallel()
	peer(t, "gsasl")
	p := startScram(t)
	for version := range tlsVersions {
		for user, password := range map[string]string{"alice": password, "bob": password, "nobody": password} {
			for _, mech := range []string{"SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"} {
				flags := []string{"--priority", "NORMAL:-VERS-ALL:+VERS-" + version}
				if mech == "SCRAM-SHA-256" {
					flags = append(flags, "--no-cb")
				}
				out, err := p.gsasl(t, mech, user, password, flags...)
				if (err == nil) != (user == "alice") || !strings.Contains(out, "AUTH "+mech+"\n") {
					t.Errorf("%s on %s for %s: %v\n%s", mech, version, user, err, out)
				}
			}
		}
	}
	for version := range tlsVersions {
		if out, err := p.gsasl(t, "SCRAM-SHA-256-PLUS", "alice", "wrong", "--priority", "NORMAL:-VERS-ALL:+VERS-"+version); err == nil {
			t.Errorf("a wrong password is accepted on %s:\n%s", version, out)
		}
		for _, mech := range []string{"SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"} {
			if n := len(p.logged("auth ok", "mech="+mech+" ", "tls="+version)); n != 1 {
				t.Errorf("%d logins by %s on %s", n, mech, version)
			}
		}
	}
}

// Without the extended master secret (RFC 7627) tls-unique is not secure, so
// SCRAM-SHA-256-PLUS is not offered on TLS 1.2. A client that does not require channel
// binding logs in without it.
func TestScramWithoutExtendedMasterSecret(t *testing.T) {
	t.Parallel()
	peer(t, "gsasl")
	p := startScram(t)
	const priority = "NORMAL:-VERS-ALL:+VERS-TLS1.2:%NO_SESSION_HASH"
	if out, err := p.gsasl(t, "SCRAM-SHA-256-PLUS", "alice", password, "--priority", priority); err == nil || !strings.Contains(out, "AUTH SCRAM-SHA-256 PLAIN") {
		t.Errorf("-PLUS is offered: %v\n%s", err, out)
	}
	if out, err := p.gsasl(t, "SCRAM-SHA-256", "alice", password, "--priority", priority, "--no-cb"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if n := len(p.logged("auth ok", "mech=SCRAM-SHA-256 ", "tls=TLS1.2")); n != 1 {
		t.Errorf("%d logins", n)
	}
	if n := len(p.logged("auth ok", "mech=SCRAM-SHA-256-PLUS")); n != 0 {
		t.Errorf("%d logins with a channel binding", n)
	}
}

// The channel bindings of each TLS version, with the SCRAM client of xdg-go.
func TestScramPlus(t *testing.T) {
	t.Parallel()
	p := startScram(t)
	endpoint := func(s tls.ConnectionState) (scram.ChannelBinding, error) {
		return scram.NewTLSServerEndpointBinding(&s)
	}
	unique := func(s tls.ConnectionState) (scram.ChannelBinding, error) {
		return scram.NewTLSUniqueBinding(s.TLSUnique), nil
	}
	zeros := func(tls.ConnectionState) (scram.ChannelBinding, error) {
		return scram.NewTLSUniqueBinding(make([]byte, 12)), nil
	}
	exporter := func(s tls.ConnectionState) (scram.ChannelBinding, error) { return scram.NewTLSExporterBinding(&s) }
	other := func(tls.ConnectionState) (scram.ChannelBinding, error) {
		return scram.ChannelBinding{Type: scram.ChannelBindingTLSServerEndpoint, Data: make([]byte, 32)}, nil
	}
	for _, tt := range []struct {
		name, version string
		binding       func(tls.ConnectionState) (scram.ChannelBinding, error)
		password      string
		code          int
	}{
		{"endpoint", "TLS1.2", endpoint, password, 235},
		{"endpoint", "TLS1.3", endpoint, password, 235},
		{"exporter", "TLS1.3", exporter, password, 235},
		{"exporter", "TLS1.2", exporter, password, 535},
		{"unique", "TLS1.2", unique, password, 235},
		{"unique of another connection", "TLS1.2", zeros, password, 535},
		{"unique", "TLS1.3", zeros, password, 535},
		{"wrong password", "TLS1.2", endpoint, "wrong", 535},
		{"wrong password", "TLS1.3", exporter, "wrong", 535},
		{"man in the middle", "TLS1.2", other, password, 535},
		{"man in the middle", "TLS1.3", other, password, 535},
	} {
		t.Run(tt.name+" on "+tt.version, func(t *testing.T) {
			config := p.tlsConfig()
			config.MinVersion, config.MaxVersion = tlsVersions[tt.version], tlsVersions[tt.version]
			c, state := p.greetWith(t, config)
			binding, err := tt.binding(state)
			kit.Must(t, err)
			client, err := scram.SHA256.NewClient("alice", tt.password, "")
			kit.Must(t, err)
			conversation := client.NewConversationWithChannelBinding(binding)
			if r := converse(t, c, "SCRAM-SHA-256-PLUS", conversation); r.Code != tt.code || tt.code == 235 && !conversation.Valid() {
				t.Errorf("got %v, want %d; proof of the server is valid: %v", r, tt.code, conversation.Valid())
			}
		})
	}
}

// greetWith is connect with a TLS configuration. It also returns the TLS state.
func (p *postern) greetWith(t *testing.T, config *tls.Config) (*submitter, tls.ConnectionState) {
	t.Helper()
	conn, err := net.Dial("tcp", p.addr(startTLS))
	kit.Must(t, err)
	c := newSubmitter(conn)
	t.Cleanup(func() { c.Close() })
	kit.Must(t, c.hello(startTLS, config))
	secured, ok := c.Conn.(*tls.Conn)
	if !ok {
		t.Fatal("no TLS")
	}
	return c, secured.ConnectionState()
}

// converse authenticates, and returns the last reply.
func converse(t *testing.T, c *submitter, mech string, conversation *scram.ClientConversation) kit.Reply {
	t.Helper()
	line, challenge := "AUTH "+mech+" ", ""
	for {
		response, err := conversation.Step(challenge)
		kit.Must(t, err)
		kit.Must(t, c.Text.PrintfLine("%s", line+base64.StdEncoding.EncodeToString([]byte(response))))
		r, err := c.Ask("")
		kit.Must(t, err)
		if r.Code != 334 {
			return r
		}
		text, err := base64.StdEncoding.DecodeString(r.Text)
		kit.Must(t, err)
		line, challenge = "", string(text)
	}
}
