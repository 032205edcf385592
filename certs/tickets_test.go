package certs

import (
	"crypto/tls"
	"log/slog"
	"testing"
)

// A ticketClient is a client that resumes its session if it can, and counts the tickets that
// the server has sent.
type ticketClient struct {
	tls.ClientSessionCache
	config  *tls.Config
	tickets int
}

func newTicketClient(version uint16) *ticketClient {
	c := &ticketClient{ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	c.config = &tls.Config{ServerName: "mail.example.org", MinVersion: version, MaxVersion: version, ClientSessionCache: c}
	return c
}

// Put is called by crypto/tls for each ticket received, and with nil to remove one that has
// failed.
func (c *ticketClient) Put(key string, session *tls.ClientSessionState) {
	if session != nil {
		c.tickets++
	}
	c.ClientSessionCache.Put(key, session)
}

// connect does one handshake and reports whether it resumed a session, and
// whether the server sent a ticket.
func (c *ticketClient) connect(t *testing.T, server *tls.Config) (resumed, ticket bool) {
	t.Helper()
	before := c.tickets
	state, err := handshake(t, server, c.config)
	if err != nil {
		t.Fatal(err)
	}
	return state.DidResume, c.tickets > before
}

func withoutTickets() Config {
	cfg := Defaults()
	cfg.SessionTickets = false
	return cfg
}

func forEachVersion(t *testing.T, test func(t *testing.T, version uint16, src Source)) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			pair := maker{serial: 1, hosts: []string{"mail.example.org"}}.in(t, t.TempDir())
			test(t, version, open(t, NewLog(slog.New(slog.DiscardHandler)), pair))
		})
	}
}

func TestSessionTicketsOff(t *testing.T) {
	forEachVersion(t, func(t *testing.T, version uint16, src Source) {
		for name, server := range map[string]*tls.Config{
			"TLSConfig": TLSConfig(withoutTickets(), src),
			"Shared":    NewShared(withoutTickets(), src).Config(),
		} {
			client := newTicketClient(version)
			for range 2 {
				if resumed, ticket := client.connect(t, server); resumed || ticket {
					t.Errorf("%s: resumed %v, ticket %v; want neither", name, resumed, ticket)
				}
			}
		}
	})
}

// Set enables and disables tickets for the handshakes after it. Older tickets are refused
// while they are disabled, and accepted again afterwards.
func TestSetSessionTickets(t *testing.T) {
	forEachVersion(t, func(t *testing.T, version uint16, src Source) {
		shared, client := NewShared(withoutTickets(), src), newTicketClient(version)
		for i, step := range []struct {
			cfg             Config
			resumed, ticket bool
		}{
			{withoutTickets(), false, false},
			{Defaults(), false, true},
			{withoutTickets(), false, false},
			{Defaults(), true, true},
			{withoutTickets(), false, false},
		} {
			shared.Set(step.cfg, src)
			resumed, ticket := client.connect(t, shared.Config())
			if resumed != step.resumed || ticket != step.ticket {
				t.Errorf("step %d, tickets %v: resumed %v, ticket %v; want %v, %v",
					i, step.cfg.SessionTickets, resumed, ticket, step.resumed, step.ticket)
			}
		}
	})
}
