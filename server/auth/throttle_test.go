package auth

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"postern/internal/netprefix"
)

// from returns a client at addr.
func from(addr string) *Peer {
	return &Peer{Remote: netip.AddrPortFrom(netip.MustParseAddr(addr), 50000)}
}

// guardedFake returns a guarded store whose only right password is "right", and
// which takes no time.
func guardedFake(cfg Config) (*Throttle, PasswordVerifier) {
	t := NewThrottle(cfg)
	return t, t.Guard(verifierFunc(answerRight))
}

func answerRight(_ context.Context, _ *Peer, login, password string) (Identity, error) {
	switch password {
	case "right":
		return Identity{User: login}, nil
	case "broken":
		return Identity{}, errors.New("broken")
	}
	return Identity{}, &Failure{Kind: BadPassword}
}

// took tells how long one login waits.
func took(t *testing.T, v PasswordVerifier, p *Peer, login, password string) time.Duration {
	t.Helper()
	start := time.Now()
	_, err := v.VerifyPassword(t.Context(), p, login, password)
	if errors.Is(err, ErrPenalty) {
		t.Fatalf("%s %s: %v", login, password, err)
	}
	return time.Since(start)
}

func TestPenaltyGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, v := guardedFake(Defaults())
		var got []time.Duration
		for i := range 7 {
			got = append(got, took(t, v, from("192.0.2.1"), "alice", fmt.Sprint("wrong", i)))
		}
		want := []time.Duration{0, 2 * time.Second, 4 * time.Second, 8 * time.Second, 15 * time.Second, 15 * time.Second, 15 * time.Second}
		if !slices.Equal(got, want) {
			t.Errorf("waited %v, want %v", got, want)
		}
	})
}

func TestPenaltyIsOfTheNetwork(t *testing.T) {
	tests := []struct {
		first, second string
		same          bool
	}{
		{"192.0.2.1", "192.0.2.1", true},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"2001:db8::1", "2001:db8::ffff:1", true},
		{"2001:db8:0:1::1", "2001:db8:0:2::1", false},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			_, v := guardedFake(Defaults())
			took(t, v, from(tt.first), "alice", "wrong")
			if waited := took(t, v, from(tt.second), "bob", "wrong"); (waited > 0) != tt.same {
				t.Errorf("%s after %s waited %v", tt.second, tt.first, waited)
			}
		})
	}
}

func TestPenaltyIsForgottenAfterAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, v := guardedFake(Defaults())
		for i := range 4 {
			took(t, v, from("192.0.2.1"), "alice", fmt.Sprint("wrong", i))
		}
		time.Sleep(time.Hour)
		took(t, v, from("192.0.2.1"), "alice", "wrong again")
		if waited := took(t, v, from("192.0.2.1"), "alice", "and again"); waited != 2*time.Second {
			t.Errorf("waited %v, want to start over at 2s", waited)
		}
	})
}

func TestTimeThatPassedCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, v := guardedFake(Defaults())
		took(t, v, from("192.0.2.1"), "alice", "wrong")
		time.Sleep(1500 * time.Millisecond)
		if waited := took(t, v, from("192.0.2.1"), "alice", "right"); waited != 500*time.Millisecond {
			t.Errorf("waited %v, want the rest of 2s", waited)
		}
	})
}

func TestSameWrongPasswordDoesNotGrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, v := guardedFake(Defaults())
		for range 20 {
			took(t, v, from("192.0.2.1"), "alice", "old password")
		}
		if waited := took(t, v, from("192.0.2.1"), "alice", "old password"); waited != 2*time.Second {
			t.Errorf("waited %v, want 2s", waited)
		}
		// One password tried on every account is no repetition.
		took(t, v, from("192.0.2.1"), "bob", "old password")
		if waited := took(t, v, from("192.0.2.1"), "carol", "old password"); waited != 4*time.Second {
			t.Errorf("waited %v, want 4s", waited)
		}
	})
}

func TestOnlyTenWrongPasswordsAreRemembered(t *testing.T) {
	now := time.Now()
	a := new(penalty)
	a.repeated([16]byte{0}, now)
	for i := range wrongKept {
		if a.repeated([16]byte{1, byte(i)}, now) {
			t.Errorf("%d is new", i)
		}
	}
	if len(a.wrong) != wrongKept {
		t.Errorf("remembers %d", len(a.wrong))
	}
	if a.repeated([16]byte{0}, now) {
		t.Error("the eleventh last is still remembered")
	}
	if !a.repeated([16]byte{1, 9}, now) {
		t.Error("the last is not remembered")
	}
}

// However many guess at once: so many as there are places have their turn before
// anybody has failed, and from then on it is one at a time, with delays.
func TestManyConnectionsGainOneBurst(t *testing.T) {
	for places, want := range map[int][]time.Duration{
		1: {0, 2 * time.Second, 6 * time.Second, 14 * time.Second, 29 * time.Second},
		2: {0, 0, 4 * time.Second, 12 * time.Second, 27 * time.Second},
		8: {0, 0, 0, 0, 0, 0, 0, 0, 15 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			throttle := NewThrottle(Defaults())
			throttle.places = places
			start := time.Now()
			var mu sync.Mutex
			var begun []time.Duration
			running, most := 0, 0
			v := throttle.Guard(verifierFunc(func(context.Context, *Peer, string, string) (Identity, error) {
				mu.Lock()
				since := time.Since(start).Truncate(time.Second)
				begun = append(begun, since)
				if running++; since > 0 {
					most = max(most, running)
				}
				mu.Unlock()
				time.Sleep(50 * time.Millisecond)
				mu.Lock()
				running--
				mu.Unlock()
				return Identity{}, &Failure{Kind: NoSuchUser}
			}))
			var all sync.WaitGroup
			refused := 0
			for i := range 100 {
				all.Go(func() {
					_, err := v.VerifyPassword(t.Context(), from("192.0.2.1"), fmt.Sprint("user", i), "x")
					mu.Lock()
					defer mu.Unlock()
					if errors.Is(err, ErrPenalty) {
						refused++
					}
				})
			}
			all.Wait()
			if !slices.Equal(begun, want) || refused != 100-len(want) {
				t.Errorf("%d places: verified at %v, %d refused; want %v", places, begun, refused, want)
			}
			if most > 1 {
				t.Errorf("%d places: %d at once after a failure", places, most)
			}
			if took := time.Since(start); took > Defaults().PenaltyWait {
				t.Errorf("somebody waited %v", took)
			}
			if len(throttle.active) != 0 {
				t.Error("somebody is still in line")
			}
		})
	}
}

// An office whose users all log in for the first time is not kept waiting.
func TestFirstLoginsOfAnAddressRunSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		throttle := NewThrottle(Defaults())
		throttle.places = 2
		v := throttle.Guard(verifierFunc(func(_ context.Context, _ *Peer, login, _ string) (Identity, error) {
			time.Sleep(time.Second)
			return Identity{User: login}, nil
		}))
		start := time.Now()
		var all sync.WaitGroup
		for i := range 6 {
			all.Go(func() { took(t, v, from("192.0.2.1"), fmt.Sprint("user", i), "right") })
		}
		all.Wait()
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("six logins of a second each took %v, want two at a time", took)
		}
		if len(throttle.active) != 0 {
			t.Error("somebody is still in line")
		}
	})
}

// Those who give up while they wait, or once they have their turn, leave it to
// the next one.
func TestGivingUpPassesTheTurnOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		throttle := NewThrottle(Defaults())
		throttle.places = 1
		first, err := throttle.Enter(t.Context(), from("192.0.2.1"), "alice")
		if err != nil {
			t.Fatal(err)
		}
		ctx, hangUp := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := throttle.Enter(ctx, from("192.0.2.1"), "bob"); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
		synctest.Wait()
		all.Go(func() {
			a, err := throttle.Enter(t.Context(), from("192.0.2.1"), "carol")
			if err != nil {
				t.Error(err)
				return
			}
			a.Leave(Outcome{})
		})
		synctest.Wait()
		hangUp()
		synctest.Wait()
		first.Leave(Outcome{})
		all.Wait()
		if len(throttle.active) != 0 {
			t.Error("somebody is still in line")
		}
	})
}

func TestPlaceTooFarAwayIsRefusedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, v := guardedFake(Defaults())
		for i := range 5 {
			took(t, v, from("192.0.2.1"), "alice", fmt.Sprint("wrong", i))
		}
		for range 2 { // 15 and 30 seconds away
			go v.VerifyPassword(t.Context(), from("192.0.2.1"), "alice", "x")
		}
		synctest.Wait()
		start := time.Now()
		_, err := v.VerifyPassword(t.Context(), from("192.0.2.1"), "alice", "x")
		if !errors.Is(err, ErrPenalty) || time.Since(start) != 0 {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		time.Sleep(time.Minute)
	})
}

func TestHangingUpGainsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		throttle, v := guardedFake(Defaults())
		took(t, v, from("192.0.2.1"), "alice", "wrong")
		for range 50 {
			ctx, hangUp := context.WithTimeout(t.Context(), 10*time.Millisecond)
			if _, err := v.VerifyPassword(ctx, from("192.0.2.1"), "alice", "x"); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("got %v before the delay was over", err)
			}
			hangUp()
		}
		if waited := took(t, v, from("192.0.2.1"), "alice", "right"); waited != 1500*time.Millisecond {
			t.Errorf("waited %v, want the rest of 2s", waited)
		}
		if len(throttle.active) != 0 {
			t.Error("somebody is still in line")
		}
	})
}

func TestKnownPairIsSpared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		throttle := NewThrottle(Defaults())
		var known []bool
		v := throttle.Guard(verifierFunc(func(ctx context.Context, p *Peer, login, password string) (Identity, error) {
			known = append(known, p.Known)
			return answerRight(ctx, p, login, password)
		}))
		peer := from("192.0.2.1")
		took(t, v, peer, "alice", "right")
		for i := range 5 {
			took(t, v, peer, "eve", fmt.Sprint("wrong", i))
		}
		if waited := took(t, v, peer, "alice", "right"); waited != 0 {
			t.Errorf("alice waited %v", waited)
		}
		if waited := took(t, v, peer, "ALICE", "right"); waited != 0 {
			t.Errorf("ALICE waited %v", waited)
		}
		if waited := took(t, v, peer, "eve", "wrong"); waited != 15*time.Second {
			t.Errorf("eve waited %v: alice's success was hers", waited)
		}
		if want := []bool{false, false, false, false, false, false, true, true, false}; !slices.Equal(known, want) {
			t.Errorf("known %v, want %v", known, want)
		}
		if peer.Known {
			t.Error("the session's peer was changed")
		}
		if waited := took(t, v, from("192.0.2.9"), "alice", "wrong"); waited != 0 {
			t.Errorf("alice elsewhere waited %v", waited)
		}
		if waited := took(t, v, from("192.0.2.9"), "alice", "right"); waited != 2*time.Second {
			t.Errorf("alice is known elsewhere, too: waited %v", waited)
		}
	})
}

func TestKnownPairIsForgottenAfterThirtyDays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, v := guardedFake(Defaults())
		took(t, v, from("192.0.2.1"), "alice", "right")
		time.Sleep(30 * 24 * time.Hour)
		took(t, v, from("192.0.2.1"), "eve", "wrong")
		if waited := took(t, v, from("192.0.2.1"), "alice", "right"); waited != 2*time.Second {
			t.Errorf("waited %v", waited)
		}
	})
}

func TestKnownPairMayNotGuessForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, v := guardedFake(Defaults())
		took(t, v, from("192.0.2.1"), "alice", "right")
		for range 50 {
			if waited := took(t, v, from("192.0.2.1"), "alice", "old password"); waited != 0 {
				t.Fatalf("the same wrong password waited %v", waited)
			}
		}
		var waited time.Duration
		for i := range 15 {
			waited += took(t, v, from("192.0.2.1"), "alice", fmt.Sprint("guess", i))
		}
		if waited == 0 {
			t.Error("15 guesses without waiting")
		}
	})
}

func TestKnownMistakesAreNotTheNeighbours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, v := guardedFake(Defaults())
		took(t, v, from("192.0.2.1"), "alice", "right")
		for i := range 5 {
			took(t, v, from("192.0.2.1"), "alice", fmt.Sprint("typo", i))
		}
		if waited := took(t, v, from("192.0.2.1"), "bob", "right"); waited != 0 {
			t.Errorf("bob waited %v", waited)
		}
	})
}

func TestOneAccountDisplacesNobodysPairs(t *testing.T) {
	k := newKnownPairs()
	now := time.Now()
	addr := func(i int) netip.Prefix {
		return netprefix.Client(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
	}
	k.succeeded("alice", "alice", addr(1), now)
	for i := range 2 * knownLogins {
		k.succeeded("mallory", "mallory", addr(i), now)
	}
	if !k.has("alice", addr(1), now) {
		t.Error("alice is forgotten")
	}
	if pairs, _ := k.logins.get("mallory"); len(pairs) != knownPerLogin {
		t.Errorf("mallory has %d pairs", len(pairs))
	}
	if k.has("mallory", addr(0), now) || !k.has("mallory", addr(2*knownLogins-1), now) {
		t.Error("the oldest was not the one to go")
	}
}

// Where a store knows one user by any number of logins, he has room for a few.
func TestLoginsOfOneUserDisplaceNobodysPairs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		throttle := NewThrottle(Defaults())
		v := throttle.Guard(verifierFunc(func(ctx context.Context, p *Peer, login, password string) (Identity, error) {
			local, _, _ := strings.Cut(login, "@")
			return answerRight(ctx, p, local, password)
		}))
		took(t, v, from("192.0.2.1"), "alice", "right")
		for i := range 2 * knownLogins {
			took(t, v, from("192.0.2.2"), fmt.Sprintf("mallory@%d.example.org", i), "right")
		}
		took(t, v, from("192.0.2.1"), "eve", "wrong")
		if waited := took(t, v, from("192.0.2.1"), "alice", "right"); waited != 0 {
			t.Errorf("alice is forgotten: waited %v", waited)
		}
		if n := len(throttle.known.logins.items); n != knownPerUser+1 {
			t.Errorf("%d logins remembered of two users", n)
		}
	})
}

func TestExemptNetworksAreSpared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := Defaults()
		var office, host Network
		for text, n := range map[string]*Network{"192.0.2.0/24": &office, "2001:db8::25": &host} {
			if err := n.UnmarshalText([]byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		cfg.PenaltyExempt = []Network{office, host}
		throttle, v := guardedFake(cfg)
		for i := range 10 {
			for _, addr := range []string{"192.0.2.7", "2001:db8::25"} {
				if waited := took(t, v, from(addr), "alice", fmt.Sprint("wrong", i)); waited != 0 {
					t.Errorf("%s waited %v", addr, waited)
				}
			}
		}
		throttle.Configure(Defaults())
		took(t, v, from("192.0.2.7"), "alice", "wrong")
		if waited := took(t, v, from("192.0.2.7"), "alice", "right"); waited != 2*time.Second {
			t.Errorf("no longer exempt: waited %v", waited)
		}
	})
}

func TestConfigureForgetsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		throttle, v := guardedFake(Defaults())
		took(t, v, from("192.0.2.1"), "alice", "right")
		took(t, v, from("192.0.2.1"), "eve", "wrong")
		throttle.Configure(Defaults())
		if waited := took(t, v, from("192.0.2.1"), "alice", "right"); waited != 0 {
			t.Errorf("alice waited %v", waited)
		}
		if waited := took(t, v, from("192.0.2.1"), "eve", "wrong"); waited != 2*time.Second {
			t.Errorf("eve waited %v", waited)
		}
	})
}

func TestWhatIsNoGuessIsNotHeldAgainstAnybody(t *testing.T) {
	errs := []error{errors.New("broken"), &Failure{Kind: Disabled}, &Failure{Kind: Expired}, context.Canceled}
	for _, err := range errs {
		synctest.Test(t, func(t *testing.T) {
			throttle := NewThrottle(Defaults())
			v := throttle.Guard(verifierFunc(func(context.Context, *Peer, string, string) (Identity, error) {
				return Identity{}, err
			}))
			for i := range 5 {
				if waited := took(t, v, from("192.0.2.1"), "alice", fmt.Sprint(i)); waited != 0 {
					t.Errorf("%v: waited %v", err, waited)
				}
			}
			if len(throttle.active)+len(throttle.idle.items) != 0 {
				t.Errorf("%v: is remembered", err)
			}
		})
	}
}

func TestPanicGivesTheTurnBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		throttle := NewThrottle(Defaults())
		v := throttle.Guard(verifierFunc(func(context.Context, *Peer, string, string) (Identity, error) { panic("bug") }))
		func() {
			defer func() { recover() }()
			v.VerifyPassword(t.Context(), from("192.0.2.1"), "alice", "x")
		}()
		if waited := took(t, throttle.Guard(verifierFunc(answerRight)), from("192.0.2.1"), "alice", "right"); waited != 0 {
			t.Errorf("waited %v", waited)
		}
	})
}

// A mechanism that shows no password takes its turn by itself.
func TestAttemptWithoutPassword(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		throttle := NewThrottle(Defaults())
		for _, want := range []time.Duration{0, 2 * time.Second, 4 * time.Second} {
			start := time.Now()
			a, err := throttle.Enter(t.Context(), from("192.0.2.1"), "alice")
			if err != nil {
				t.Fatal(err)
			}
			if waited := time.Since(start); waited != want {
				t.Errorf("waited %v, want %v", waited, want)
			}
			a.Leave(Outcome{Err: &Failure{Kind: BadPassword}})
		}
	})
}

func TestMemoryOfPenaltiesIsBounded(t *testing.T) {
	throttle := NewThrottle(Defaults())
	throttle.idle.limit = 100
	v := throttle.Guard(verifierFunc(answerRight))
	for i := range 1000 {
		p := &Peer{Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1)}
		if _, err := v.VerifyPassword(t.Context(), p, strings.Repeat("x", 10), "wrong"); err == nil {
			t.Fatal("got in")
		}
	}
	if n := len(throttle.idle.items); n != 100 || throttle.idle.order.Len() != n || len(throttle.active) != 0 {
		t.Errorf("%d idle, %d active", n, len(throttle.active))
	}
}
