package dovecot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"postern/server/auth"
	"postern/server/auth/throttle"
)

// A Proxy is the auth.Provider that hands the exchanges with the clients through
// to Dovecot. Its methods may be called by many sessions at once; its fields are
// not changed once it is in use. The abilities of the store are its own, too.
//
// Nothing is offered without TLS, whatever the mechanism. While Dovecot is away,
// what it offered last goes on being offered, so that clients get 454 and
// not the impression that there is no AUTH. Before Dovecot has ever been
// seen this is PLAIN and LOGIN, as far as the options allow.
type Proxy struct {
	*Store

	// Throttle slows down those who guess. Between the messages of an exchange
	// no login waits for the client: see auth.Attempt.Yield.
	Throttle *throttle.Throttle

	// Options rule out mechanisms that Dovecot offers.
	Options auth.SecurityOptions

	// Timeout is how long Dovecot may take for each answer; zero means
	// DefaultTimeout. It takes 2 seconds for a refusal.
	Timeout time.Duration
}

// DefaultTimeout is time enough for databases that are slow.
const DefaultTimeout = 20 * time.Second

func (x Proxy) timeout() time.Duration { return cmp.Or(x.Timeout, DefaultTimeout) }

// exchangeTime bounds a whole exchange. Dovecot forgets one after 150 seconds,
// and then calls its continuation a wrong password.
const exchangeTime = 2 * time.Minute

// fallback is what most Dovecots offer.
var fallback = []mechanism{
	{"PLAIN", auth.MechanismPlaintext},
	{"LOGIN", auth.MechanismPlaintext},
}

// Mechanisms implements auth.Provider.
func (x Proxy) Mechanisms(p *auth.Peer) []string {
	// RFC 4954, section 4: no password where it could be read on the way; and
	// no other mechanism either, since nothing that follows would be safe.
	if p.TLS == nil {
		return nil
	}
	x.link.refresh()
	mechanisms, seen := x.link.offered()
	if !seen {
		mechanisms = fallback
	}
	return x.allowed(mechanisms)
}

func (x Proxy) allowed(mechanisms []mechanism) []string {
	var names []string
	for _, m := range mechanisms {
		if x.Options.Allow(m.properties) {
			names = append(names, m.name)
		}
	}
	return names
}

var errExchangeTime = errors.New("the client took too long to authenticate")

// Start implements auth.Provider. Dovecot gets its first request
// with the first message.
func (x Proxy) Start(_ context.Context, p *auth.Peer, mech string) (auth.Exchange, error) {
	if !slices.Contains(x.Mechanisms(p), mech) {
		return nil, auth.ErrMechanism
	}
	e := &exchange{proxy: x, peer: p, mech: mech, deadline: time.Now().Add(exchangeTime)}
	e.overheard.mech = mech
	e.expiry = time.AfterFunc(exchangeTime, e.release)
	return e, nil
}

// Probe connects once more and returns what Dovecot and the options leave to
// offer; nothing is an error.
func (x Proxy) Probe(ctx context.Context) ([]string, error) {
	offered, err := x.probe(ctx)
	if err != nil {
		return nil, err
	}
	allowed := x.allowed(offered)
	if len(allowed) == 0 {
		return nil, fmt.Errorf("security_options %v allow none of the mechanisms %s that Dovecot offers; "+
			"change auth_mechanisms in its configuration, or the options", x.Options, names(offered))
	}
	return allowed, nil
}

func names(mechanisms []mechanism) []string {
	var all []string
	for _, m := range mechanisms {
		all = append(all, m.name)
	}
	return all
}
