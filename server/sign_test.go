package server

import (
	"context"
	"sync"
	"testing"

	"postern/policy"
	"postern/relay"
	"postern/test/kit"
)

// An envelopes hop keeps the envelopes that it gets.
type envelopes struct {
	relay.NextHop
	mu  sync.Mutex
	all []relay.Envelope
}

func (h *envelopes) Begin(ctx context.Context, e *relay.Envelope) (relay.Transaction, error) {
	h.mu.Lock()
	h.all = append(h.all, *e)
	h.mu.Unlock()
	return h.NextHop.Begin(ctx, e)
}

func (h *envelopes) last() relay.Envelope {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.all[len(h.all)-1]
}

// A message may be signed if its client has logged in, or is in the networks of its listener and
// is known not to be a proxy.
func TestMaySign(t *testing.T) {
	for _, c := range []struct {
		name, networks, header string // of a proxy
		login, want            bool
	}{
		{"stranger", "192.0.2.0/24", "", false, false},
		{"login", "192.0.2.0/24", "", true, true},
		{"mynetworks", "127.0.0.0/8", "", false, true},
		{"login in mynetworks", "127.0.0.0/8", "", true, true},
		{"stranger behind a proxy", "127.0.0.0/8", "PROXY TCP4 192.0.2.1 127.0.0.1 40000 587\r\n", false, false},
		{"mynetworks behind a proxy", "192.0.2.0/24", "PROXY TCP4 192.0.2.1 127.0.0.1 40000 587\r\n", false, true},
		{"the proxy itself", "127.0.0.0/8", "PROXY TCP4 127.0.0.1 127.0.0.1 40000 587\r\n", false, false},
		{"login by the proxy itself", "127.0.0.0/8", "PROXY TCP4 127.0.0.1 127.0.0.1 40000 587\r\n", true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := openSettings(STARTTLS)
			kit.Must(t, s.Policy.MyNetworks.UnmarshalText([]byte(c.networks)))
			s.Policy.LocalDomains = policy.Domains{"example.org"}
			kit.Must(t, s.Policy.Recipient.UnmarshalText([]byte("permit_sasl_authenticated, permit_auth_destination, reject")))
			if c.header != "" {
				s.Server.ProxyTrusted = mustPrefixes(t, "127.0.0.0/8")
			}
			d := newTestServer(t, s)
			services := *d.services.Load()
			hop := &envelopes{NextHop: services.Hop}
			services.Hop = hop
			d.services.Store(&services)
			client := d.dial()
			kit.Must(t, client.sendAll(c.header))
			if c.login {
				kit.Must(t, client.login("alice secret"))
			} else {
				kit.Must(t, client.steps())
			}
			for range 2 { // the second transaction, too
				client.must(t, "MAIL FROM:<ceo@example.org>", "250")
				client.must(t, "RCPT TO:<bob@example.org>", "250")
				if got := hop.last().MaySign; got != c.want {
					t.Errorf("MaySign is %v, want %v", got, c.want)
				}
				client.must(t, "RSET", "250")
			}
		})
	}
}
