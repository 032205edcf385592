package share

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
)

var (
	alice = User("", "alice")
	bob   = User("", "bob")

	printer = TrustedClient(netip.MustParseAddr("192.0.2.1"))
)

func client(addr string) Owner { return Client(netip.MustParseAddr(addr)) }

// fill takes single units until the pool refuses, and returns how many it got.
func fill(p *Pool, o Owner) (n int64) {
	for p.Take(o, 1) == nil {
		n++
	}
	return n
}

func TestOneUserGetsAQuarter(t *testing.T) {
	p := NewPool(Quarter(1000, 10))
	if n := fill(p, alice); n != 250 {
		t.Errorf("alone: %d, want 250", n)
	}
	if n := fill(p, bob); n < 150 || n > 200 {
		t.Errorf("the second: %d", n)
	}
	if r := p.Take(alice, 1); r == nil || r.Full() || r.Owner != alice || r.Held != 250 {
		t.Errorf("above the share: %+v", r)
	}
}

// Users who take all that they can one after the other leave room for the next one.
func TestRoomIsLeft(t *testing.T) {
	p := NewPool(Quarter(10_000, 10))
	for i := range 20 {
		if n := fill(p, User("", fmt.Sprint(i))); n < 10 {
			t.Errorf("user %d gets %d", i, n)
		}
	}
}

func TestLeastAndTotal(t *testing.T) {
	p := NewPool(Quarter(100, 60))
	if r := p.Take(alice, 60); r != nil {
		t.Errorf("the least amount: %+v", r)
	}
	if r := p.Take(alice, 1); r == nil || r.Full() {
		t.Errorf("above it: %+v", r)
	}
	if r := p.Take(bob, 41); r == nil || !r.Full() || r.Held != 60 || r.Limit != 100 {
		t.Errorf("above the total: %+v", r)
	}
	if r := p.Take(bob, 40); r != nil {
		t.Errorf("the rest: %+v", r)
	}
	if r := p.TakeAtLeast(Owner{}, 1, 1000); r == nil || !r.Full() {
		t.Errorf("the server: %+v", r)
	}
}

// Clients without a login hold together what one user may hold, from however many networks,
// and users are not affected.
func TestClientsTogether(t *testing.T) {
	p := NewPool(Quarter(1000, 1))
	if n := fill(p, client("192.0.2.1")); n != 125 {
		t.Errorf("one network: %d, want 125", n)
	}
	if n := fill(p, client("192.0.2.200")); n != 0 {
		t.Errorf("the same network: %d", n)
	}
	for i := range 100 {
		fill(p, client(fmt.Sprintf("2001:db8:%x::1", i)))
	}
	if p.groups[clients] > 250 {
		t.Errorf("all networks hold %d", p.groups[clients])
	}
	if r := p.Check(client("198.51.100.1"), 251); r == nil || r.Who != "clients without a login" {
		t.Errorf("%+v", r)
	}
	if n := fill(p, alice); n < 185 {
		t.Errorf("a user gets %d", n)
	}
}

// Strangers cannot use up the share of clients in mynetworks, which hold no more together than
// one user, and never refuse a user.
func TestTrustedClientsHaveAShare(t *testing.T) {
	p := NewPool(Quarter(1000, 1))
	for i := range 100 {
		fill(p, client(fmt.Sprintf("2001:db8:%x::1", i)))
	}
	if n := fill(p, printer); n < 90 || n > 125 {
		t.Errorf("a network in mynetworks gets %d", n)
	}
	for i := range 100 {
		fill(p, TrustedClient(netip.MustParseAddr(fmt.Sprintf("10.0.%d.1", i))))
	}
	if n := p.groups[trusted]; n > 200 {
		t.Errorf("all networks in mynetworks hold %d", n)
	}
	if n := fill(p, alice); n < 130 {
		t.Errorf("a user gets %d", n)
	}
}

func TestOwners(t *testing.T) {
	for _, c := range []struct {
		a, b Owner
		same bool
	}{
		{User("", "alice"), User("", "alice"), true},
		{User("", "alice"), User("", "Alice"), false},
		{User("", "alice"), User("newsletter", "alice"), false},
		{client("192.0.2.1"), client("192.0.2.254"), true},
		{client("192.0.2.1"), client("::ffff:192.0.2.9"), true},
		{client("192.0.2.1"), client("192.0.3.1"), false},
		{client("2001:db8:1:2::1"), client("2001:db8:1:ffff::9"), true},
		{client("2001:db8:1::1"), client("2001:db8:2::1"), false},
		{client("192.0.2.1"), printer, false},
		{Client(netip.Addr{}), Owner{}, false},
		{User("", ""), Owner{}, true}, // no user has an empty name
	} {
		if (c.a == c.b) != c.same {
			t.Errorf("%v and %v: same is %v", c.a, c.b, c.a == c.b)
		}
	}
}

// Nothing remains of owners that have given everything back, whatever the order.
func TestEntriesVanish(t *testing.T) {
	p := NewPool(Quarter(1<<40, 1<<20))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			var held []int64
			o := User("", fmt.Sprint(i%3))
			if i%2 == 0 {
				o = client(fmt.Sprintf("192.0.%d.1", i))
			}
			for range 1000 {
				if n := rand.Int64N(1 << 20); p.Take(o, n) == nil {
					held = append(held, n)
				}
			}
			p.Add(o, 1<<41)
			held = append(held, 1<<41)
			for _, n := range held {
				p.Give(o, n)
			}
		})
	}
	wg.Wait()
	if p.Used() != 0 || p.groups != [groups]int64{} || p.Owners() != 0 {
		t.Errorf("%d used, %d by groups, %d owners", p.Used(), p.groups, p.Owners())
	}
}

func TestSetLimits(t *testing.T) {
	p := new(Pool)
	if r := p.Take(alice, 1<<50); r != nil {
		t.Errorf("without limits: %+v", r)
	}
	p.SetLimits(Limits{Total: 100, Each: 100, Least: 1})
	if r := p.Take(bob, 1); r == nil || !r.Full() {
		t.Errorf("%+v", r)
	}
	p.Give(alice, 1<<50)
	if n := fill(p, bob); n != 100 {
		t.Errorf("without a limit for each: %d", n)
	}
}
