package throttle

import (
	"context"
	"net/netip"
	"time"

	"postern/internal/lru"
	"postern/internal/netprefix"
)

const (
	networkKept  = time.Hour // after the last failure
	networksKept = 1 << 16   // remembered at once; at the worst 16 MiB
	networkDelay = 4 * time.Second
)

// networks are the failures of networks: of an IPv4 /24 and an IPv6 /48, by which the count
// of a login orders attempts, and of an IPv6 /56 and /48, since an attacker may have many
// /64 there. Carriers give each phone a /64 of one /48, so a network with failures only
// delays attempts, for up to 4 seconds after each failure, and successes take its failures
// away.
type networks struct {
	active map[netip.Prefix]*network        // with attempts at a login: never displaced
	idle   *lru.Map[netip.Prefix, *network] // without
}

// A network is guarded by the throttle's lock.
type network struct {
	users    int // attempts that wait for a login, or have been admitted to it
	admitted int // of them

	failures int
	last     time.Time // of the last failure
	forgiven id        // the user whose success has last taken a failure away
}

func newNetworks() networks {
	return networks{make(map[netip.Prefix]*network), lru.New[netip.Prefix, *network](networksKept)}
}

// activate returns the state of a network, without failures that have expired. The caller
// passes it to deactivate afterwards.
func (all networks) activate(prefix netip.Prefix, now time.Time) *network {
	n, ok := all.active[prefix]
	if !ok {
		if n, ok = all.idle.Get(prefix); !ok {
			n = new(network)
		}
		all.idle.Remove(prefix)
		all.active[prefix] = n
	}
	n.expire(now)
	return n
}

// deactivate moves a network without attempts to the idle ones, or forgets it if it has
// no failures.
func (all networks) deactivate(prefix netip.Prefix, n *network) {
	if n.users > 0 {
		return
	}
	delete(all.active, prefix)
	if n.failures > 0 {
		all.idle.Put(prefix, n)
	}
}

func (n *network) expire(now time.Time) {
	if now.Sub(n.last) >= networkKept {
		n.failures = 0
	}
}

// count counts a failure of the client.
func (all networks) count(from netip.Prefix, now time.Time) {
	for _, w := range networksOf(from) {
		n := all.activate(w.prefix, now)
		n.failures++
		n.last = now
		all.deactivate(w.prefix, n)
	}
}

// forgive takes one failure away after a success of the user from the client. Successes
// of one user in a row take away only one, otherwise an attacker with one account could
// take away all.
func (all networks) forgive(user id, from netip.Prefix, now time.Time) {
	for _, w := range networksOf(from) {
		n := all.activate(w.prefix, now)
		if n.failures > 0 && n.forgiven != user {
			n.failures--
			n.forgiven = user
		}
		all.deactivate(w.prefix, n)
	}
}

// awaitNetwork waits until the delay of the networks of an IPv6 client is over.
func (a *Attempt) awaitNetwork(ctx context.Context) error {
	t := a.throttle
	t.mu.Lock()
	delay := t.networks.delay(a.from, time.Now())
	t.mu.Unlock()
	return sleep(ctx, delay)
}

// delay returns how long an attempt from the client has to wait.
func (all networks) delay(from netip.Prefix, now time.Time) (longest time.Duration) {
	for _, w := range networksOf(from) {
		if w.divisor == 0 {
			continue
		}
		n := all.activate(w.prefix, now)
		level := min(n.failures/w.divisor, len(penaltyDelays)-1)
		d := min(penaltyDelays[level], networkDelay)
		longest = max(longest, n.last.Add(d).Sub(now))
		all.deactivate(w.prefix, n)
	}
	return longest
}

// A weighed is a network of a client, and how many failures there weigh as much as one of
// the client; 0 if they delay no attempt.
type weighed struct {
	prefix  netip.Prefix
	divisor int
}

// networksOf returns the networks of a client in which failures are counted.
func networksOf(from netip.Prefix) []weighed {
	large := netprefix.Network(from.Addr())
	if !from.Addr().Is6() {
		return []weighed{{large, 0}}
	}
	site := netip.PrefixFrom(from.Addr(), 56).Masked()
	return []weighed{{site, 4}, {large, 16}}
}
