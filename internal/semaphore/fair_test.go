package semaphore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A request is one caller of Acquire in a test.
type request struct {
	name string
	turn Turn
}

// orderOf occupies all slots, lets the requests wait in order of arrival, and returns the
// order in which they get a slot. Each returns it before the next one gets it.
func orderOf(t *testing.T, s *Fair, requests []request) string {
	t.Helper()
	if err := s.Acquire(t.Context(), Turn{}); err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, r := range requests {
		go func() {
			if err := s.Acquire(t.Context(), r.turn); err != nil {
				t.Error(err)
			}
			order = append(order, r.name)
			s.Release(r.turn)
		}()
		synctest.Wait()
	}
	s.Release(Turn{})
	synctest.Wait()
	return strings.Join(order, " ")
}

func network(text string) netip.Prefix { return netip.MustParsePrefix(text) }

func TestNetworksTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		many, office, home := network("192.0.2.0/24"), network("198.51.100.0/24"), network("2001:db8::/48")
		got := orderOf(t, New(1), []request{
			{"a1", Turn{Network: many}}, {"a2", Turn{Network: many}}, {"a3", Turn{Network: many}}, {"a4", Turn{Network: many}},
			{"b1", Turn{Network: office}}, {"c1", Turn{Network: home}}, {"b2", Turn{Network: office}},
		})
		if want := "a1 b1 c1 a2 b2 a3 a4"; got != want {
			t.Errorf("order %s, want %s", got, want)
		}
	})
}

func TestSecondLineGetsOneTurnInFour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var requests []request
		for i := range 10 {
			requests = append(requests, request{fmt.Sprint("k", i), Turn{Known: true, Network: network("192.0.2.0/24")}})
		}
		for i := range 3 {
			requests = append(requests, request{fmt.Sprint("u", i), Turn{Network: network("198.51.100.0/24")}})
		}
		got := orderOf(t, New(1), requests)
		if want := "k0 k1 k2 u0 k3 k4 k5 u1 k6 k7 k8 u2 k9"; got != want {
			t.Errorf("order %s, want %s", got, want)
		}
	})
}

// A waiter of the second line whose holder has no slot left does not use up the turn of
// that line.
func TestBlockedWaiterDoesNotUseTheTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewShared(4)
		full := Turn{Holders: []string{"eve"}}
		if err := s.Acquire(t.Context(), full); err != nil {
			t.Fatal(err)
		}
		defer s.Release(full)
		for range 2 {
			if err := s.Acquire(t.Context(), Turn{}); err != nil {
				t.Fatal(err)
			}
		}
		requests := []request{{"eve", full}, {"u0", Turn{}}, {"u1", Turn{}}}
		for i := range 5 {
			requests = append(requests, request{fmt.Sprint("k", i), Turn{Known: true}})
		}
		got := orderOf(t, s, requests)
		if want := "k0 k1 k2 u0 k3 k4 u1"; got != want {
			t.Errorf("order %s, want %s and no turn for eve", got, want)
		}
		s.Release(full)
		synctest.Wait()
		if err := s.Acquire(t.Context(), full); err != nil {
			t.Fatal(err)
		}
	})
}

func TestHolderHasAtMostAQuarter(t *testing.T) {
	for slots, want := range map[int]int{2: 1, 3: 1, 4: 1, 7: 1, 8: 2, 20: 5, 1000: 250} {
		synctest.Test(t, func(t *testing.T) {
			s := NewShared(slots)
			ctx, cancel := context.WithCancel(t.Context())
			var all sync.WaitGroup
			for _, holder := range []string{"address", "login"} {
				for i := range 2 * slots {
					all.Go(func() {
						turn := Turn{Holders: []string{holder, fmt.Sprint(holder, i)}}
						if s.Acquire(ctx, turn) == nil {
							<-ctx.Done()
							s.Release(turn)
						}
					})
				}
			}
			synctest.Wait()
			for _, holder := range []string{"address", "login"} {
				if got := s.holders[holder].held; got != want {
					t.Errorf("of %d slots %s holds %d, want %d", slots, holder, got, want)
				}
			}
			if want := slots - 2*want; s.free != want {
				t.Errorf("%d of %d slots are free, want %d", s.free, slots, want)
			}
			other := Turn{Holders: []string{"carol"}}
			if slots > 2 {
				if err := s.Acquire(ctx, other); err != nil {
					t.Error(err)
				}
				s.Release(other)
			}
			cancel()
			all.Wait()
			if s.free != slots || len(s.holders) != 0 || !s.queue.empty() {
				t.Errorf("afterwards %d of %d slots are free, holders %v", s.free, slots, s.holders)
			}
		})
	}
}

// Those who wait for a holder's share wait in the same order: known clients first, and
// networks in turn.
func TestOrderWithinAShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewShared(20) // five for one login
		bob := func(known bool, n string) Turn {
			return Turn{Known: known, Network: network(n), Holders: []string{"login bob"}}
		}
		const bots, home = "192.0.2.0/24", "198.51.100.0/24"
		for range 5 {
			if err := s.Acquire(t.Context(), bob(false, bots)); err != nil {
				t.Fatal(err)
			}
		}
		var order []string
		for _, r := range []request{
			{"bot1", bob(false, bots)}, {"bot2", bob(false, bots)}, {"bot3", bob(false, bots)},
			{"new", bob(false, home)}, {"phone", bob(true, home)},
		} {
			go func() {
				if err := s.Acquire(t.Context(), r.turn); err != nil {
					t.Error(err)
				}
				order = append(order, r.name)
				s.Release(r.turn)
			}()
			synctest.Wait()
		}
		s.Release(bob(false, bots))
		synctest.Wait()
		if got, want := strings.Join(order, " "), "phone bot1 new bot2 bot3"; got != want {
			t.Errorf("order %s, want %s", got, want)
		}
	})
}

// Whatever requests end or give up, no slot and no waiter is lost, and no bound exceeded.
func TestRandomHolders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const slots = 8
		s := NewShared(slots)
		r := rand.New(rand.NewPCG(1, 2))
		var all sync.WaitGroup
		served, gaveUp := 0, 0
		var mu sync.Mutex
		for range 3000 {
			turn := Turn{
				Known:   r.IntN(3) == 0,
				Network: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(r.IntN(5)), 0}), 24),
				Holders: []string{fmt.Sprint("address ", r.IntN(6)), fmt.Sprint("login ", r.IntN(4))},
			}
			begin, wait, use := time.Duration(r.IntN(3000))*time.Millisecond, time.Duration(r.IntN(2000)+1)*time.Millisecond,
				time.Duration(r.IntN(20))*time.Millisecond
			all.Go(func() {
				time.Sleep(begin)
				ctx, cancel := context.WithTimeout(t.Context(), wait)
				defer cancel()
				err := s.Acquire(ctx, turn)
				mu.Lock()
				if err != nil {
					gaveUp++
					mu.Unlock()
					return
				}
				served++
				mu.Unlock()
				s.check(t, slots)
				time.Sleep(use)
				s.Release(turn)
				s.check(t, slots)
			})
		}
		all.Wait()
		if s.free != slots || len(s.holders) != 0 || !s.queue.empty() {
			t.Errorf("afterwards %d slots are free, holders %v", s.free, s.holders)
		}
		if served < 1000 || gaveUp < 100 {
			t.Errorf("%d served, %d gave up: the test does not test much", served, gaveUp)
		}
	})
}

// check checks the invariants of Fair and holder.
func (f *Fair) check(t *testing.T, slots int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.free < 0 || f.free > slots || f.free > 0 && !f.queue.empty() {
		t.Errorf("%d slots are free, queue empty: %v", f.free, f.queue.empty())
	}
	queued := make(map[string]bool)
	for i := range f.queue.lines {
		for e := f.queue.lines[i].order.Front(); e != nil; e = e.Next() {
			for w := e.Value.(*flow).waiters.Front(); w != nil; w = w.Next() {
				for _, name := range w.Value.(*waiter).turn.Holders {
					queued[name] = true
				}
			}
		}
	}
	for name, h := range f.holders {
		if h.held < 0 || h.held > f.share {
			t.Errorf("%s holds %d", name, h.held)
		}
		if h.held < f.share && !h.over.empty() && !queued[name] {
			t.Errorf("%s holds %d of %d, but has waiters for its share", name, h.held, f.share)
		}
	}
}
