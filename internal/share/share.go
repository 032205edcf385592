// Package share divides something that is limited between users, so that one of them
// cannot use up what the others need. It counts an amount, such as bytes or messages, that
// each [Owner] holds in a [Pool].
//
//   - A user holds at most Limits.Each, and less when the pool fills: at most the part of
//     the free amount that leaves it Each of an otherwise empty pool. With a quarter, one
//     user alone holds a quarter, and two users hold a fifth each. So users who take all
//     that they can leave room for the next one.
//   - All clients without a login hold together at most as much as one user, and all that
//     are trusted without one (mynetworks) as much again. Of that, one network holds at most
//     half, by the same rule.
//   - Each owner may hold the amount Least, whatever the others hold, until the pool is full.
package share

import (
	"fmt"
	"net/netip"
	"sync"

	"postern/internal/netprefix"
)

// An Owner is a user, or the network of clients without a login. The zero Owner is the
// server itself, for which only the limit of the whole pool holds.
type Owner struct {
	users, name string
	network     netip.Prefix
	group       group
}

// A group is the owners that have one share together.
type group uint8

const (
	alone   group = iota // a user has a share of its own
	clients              // without a login
	trusted              // without a login, in mynetworks
	groups
)

func (g group) String() string {
	if g == trusted {
		return "clients in mynetworks without a login"
	}
	return "clients without a login"
}

// User returns the owner for a user: name is the identity that the store returned, and
// users names the stores if the listener has its own.
func User(users, name string) Owner { return Owner{users: users, name: name} }

// Client returns the owner for a client that has not logged in: its network (IPv4 /24,
// IPv6 /48). All clients whose address is not known have one owner.
func Client(addr netip.Addr) Owner {
	return Owner{network: netprefix.Network(addr), group: clients}
}

// TrustedClient is Client for an address in mynetworks. It is another owner, so that strangers
// cannot use up what printers and other machines need.
func TrustedClient(addr netip.Addr) Owner {
	return Owner{network: netprefix.Network(addr), group: trusted}
}

// String returns the owner for an error or the log.
func (o Owner) String() string {
	switch {
	case o == Owner{}:
		return "the server"
	case o.group == alone && o.users != "":
		return fmt.Sprintf("user %q of listener %q", o.name, o.users)
	case o.group == alone:
		return fmt.Sprintf("user %q", o.name)
	case o.network.IsValid():
		return fmt.Sprintf("%s in %s", o.group, o.network)
	}
	return o.group.String() + " whose address is not known"
}

// Limits are those of a Pool, in its unit.
type Limits struct {
	Total int64 // of all owners together
	Each  int64 // of one user, and of each group of clients without a login; Total or more: no limit
	Least int64 // that every owner may hold until Total is reached
}

// Quarter returns the limits with a quarter of the total for each user.
func Quarter(total, least int64) Limits {
	return Limits{Total: total, Each: max(total/4, 1), Least: least}
}

// A Refusal is why an amount was refused.
type Refusal struct {
	Owner Owner  // zero if Total is reached
	Who   string // the owner, or several
	Held  int64  // by them now
	Limit int64  // of what they may hold now
}

// Full reports whether the whole pool is full, and not a share.
func (r *Refusal) Full() bool { return r.Owner == Owner{} }

// A Pool counts what each owner holds. Its methods may be called by many goroutines at
// once. It has an entry for each owner that holds something, and no other. The zero Pool
// has no limits.
type Pool struct {
	mu      sync.Mutex
	limits  Limits
	limited bool
	used    int64
	groups  [groups]int64 // the parts of used that the groups hold
	held    map[Owner]int64
}

// NewPool returns a Pool with limits.
func NewPool(l Limits) *Pool { return &Pool{limits: l, limited: true} }

// SetLimits replaces the limits. What is held stays.
func (p *Pool) SetLimits(l Limits) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limits, p.limited = l, true
}

// Take counts n more for an owner, which Give gives back, or returns why it does not.
func (p *Pool) Take(o Owner, n int64) *Refusal { return p.TakeAtLeast(o, n, 0) }

// TakeAtLeast is Take for an owner that may hold least even if that is more than Limits.Least.
func (p *Pool) TakeAtLeast(o Owner, n, least int64) *Refusal {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.check(o, n, max(least, p.limits.Least)); r != nil {
		return r
	}
	p.add(o, n)
	return nil
}

// Check returns what Take would return now, and counts nothing.
func (p *Pool) Check(o Owner, n int64) *Refusal {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.check(o, n, p.limits.Least)
}

// Add counts n more for an owner, even above the limits.
func (p *Pool) Add(o Owner, n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.add(o, n)
}

// Give gives n back. An owner that holds nothing any more is forgotten.
func (p *Pool) Give(o Owner, n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.add(o, -n)
}

// Used returns what all owners hold together.
func (p *Pool) Used() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.used
}

// Held returns what an owner holds.
func (p *Pool) Held(o Owner) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held[o]
}

// Owners returns how many owners hold something.
func (p *Pool) Owners() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.held)
}

func (p *Pool) add(o Owner, n int64) {
	p.used += n
	p.groups[o.group] += n
	if o == (Owner{}) || n == 0 {
		return
	}
	if p.held == nil {
		p.held = make(map[Owner]int64)
	}
	if p.held[o] += n; p.held[o] == 0 {
		delete(p.held, o)
	}
}

func (p *Pool) check(o Owner, n, least int64) *Refusal {
	l, used := p.limits, p.used+n
	switch {
	case !p.limited:
		return nil
	case used > l.Total:
		return &Refusal{Who: "all together", Held: p.used, Limit: l.Total}
	case o == Owner{}:
		return nil
	}
	limit := max(least, fair(l.Each, l.Total, used))
	if o.group == alone {
		return refuse(o, o.String(), p.held[o], n, limit)
	}
	together := p.groups[o.group]
	if r := refuse(o, o.group.String(), together, n, limit); r != nil {
		return r
	}
	return refuse(o, o.String(), p.held[o], n, max(least, fair(l.Each/2, l.Each, together+n)))
}

func refuse(o Owner, who string, held, n, limit int64) *Refusal {
	if held+n <= limit {
		return nil
	}
	return &Refusal{Owner: o, Who: who, Held: held, Limit: limit}
}

// fair returns how much one of many may hold of a total of which used is in use, its own
// amount included, so that it alone may hold each. It is proportional to what is free (the
// dynamic thresholds of Choudhury and Hahne, 1998).
func fair(each, total, used int64) int64 {
	if each >= total {
		return total
	}
	return int64(float64(each) * float64(max(0, total-used)) / float64(total-each))
}
