package relay

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"postern/relay/relaytest"
)

// Probe reports the refusals of each command, and sends no message.
func TestProbe(t *testing.T) {
	for _, tt := range []struct {
		verb, reply string
		want        []Refused
	}{
		{"NOOP", "250 unused", nil},
		{"MAIL", "554 5.7.1 Go away", []Refused{{Command: "MAIL FROM:<a@example.org>", Reply: "554 5.7.1 Go away", Reach: Some}}},
		{"RCPT", "454 4.7.1 Relay access denied", []Refused{
			{Command: "RCPT TO:<b@example.org>", Reply: "454 4.7.1 Relay access denied", Reach: All},
			{Command: "RCPT TO:<c@example.net>", Reply: "454 4.7.1 Relay access denied", Reach: All},
		}},
	} {
		hop := relaytest.New(t, relaytest.Options{})
		hop.Handle(on(tt.verb, relaytest.Say(tt.reply)))
		r := newRouter(t, nil, hop)
		answers := r.Hops()[0].Probe(t.Context(), "a@example.org", "b@example.org", "c@example.net")
		if len(answers) != 1 || answers[0].Err != nil || answers[0].Own != netip.MustParseAddr("127.0.0.1") {
			t.Fatalf("%s: %+v", tt.verb, answers)
		}
		got := answers[0].Refused
		for i := range got {
			got[i].Step = ""
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %+v, want %+v", tt.verb, got, tt.want)
		}
		commands := strings.Join(hop.Commands(), "\n")
		if strings.Contains(commands, "DATA") || !strings.Contains(commands, "RSET") || !strings.Contains(commands, "QUIT") {
			t.Errorf("%s: sent\n%s", tt.verb, commands)
		}
	}
}

// A hop may allow one connection only: Probe does not keep another one.
func TestProbeAlone(t *testing.T) {
	hop := relaytest.New(t, relaytest.Options{})
	r := newRouter(t, nil, hop)
	r.Probe(t.Context())
	h := r.Hops()[0]
	h.Probe(t.Context(), "a@example.org", "b@example.org")
	if n := len(h.pool.idle); n != 0 {
		t.Errorf("%d idle connections", n)
	}
}

// A refusal by the hop differs from one that the relay decides.
func TestRefusedError(t *testing.T) {
	hop := relaytest.New(t, relaytest.Options{})
	hop.Handle(on("RCPT", relaytest.Say("550 5.1.1 No such user")))
	r := newRouter(t, nil, hop)
	tx := begin(t, r)
	err := tx.Rcpt(t.Context(), "bob@example.com", nil)
	if e, ok := err.(*RefusedError); !ok || e.Hop != hop.URL() {
		t.Errorf("%#v", err)
	}
	if _, ok := tx.Rcpt(t.Context(), "", nil).(*RefusedError); ok {
		t.Error("the hop was not asked")
	}
}
