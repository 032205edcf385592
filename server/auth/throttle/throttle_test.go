package throttle

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"postern/internal/lru"
	"postern/test/kit"
)

func TestMain(m *testing.M) { os.Exit(kit.Main(m)) }

func testConfig() Config { return Config{MaxWait: 30 * time.Second} }

// A verifier checks passwords when a throttle lets it, as package auth does.
type verifier struct {
	*Throttle
	verify func(login, password string) Outcome
}

// newVerifier returns one whose only right password is "right", and which takes no time.
func newVerifier() verifier {
	return verifier{New(testConfig()), checkRight}
}

func checkRight(login, password string) Outcome {
	switch password {
	case "right":
		return Outcome{Result: Success, User: login}
	case "broken":
		return Outcome{}
	}
	return Outcome{Result: WrongGuess, Secret: password}
}

// logIn makes one attempt, and reports whether its pair was known.
func (v verifier) logIn(ctx context.Context, addr, login, password string) (known bool, err error) {
	a, err := v.Acquire(ctx, netip.MustParseAddr(addr), login)
	if err != nil {
		return false, err
	}
	a.Done(v.verify(login, password))
	return a.Known, nil
}

// wait returns how long one login waits.
func (v verifier) wait(t *testing.T, addr, login, password string) time.Duration {
	t.Helper()
	start := time.Now()
	if _, err := v.logIn(t.Context(), addr, login, password); err != nil {
		t.Fatalf("%s %s: %v", login, password, err)
	}
	return time.Since(start)
}

// checkQueuesEmpty fails if a login is still in a queue.
func (v verifier) checkQueuesEmpty(t *testing.T) {
	t.Helper()
	if n := len(v.penalties.active) + len(v.networks.active) + len(v.logins.queues); n != 0 {
		t.Errorf("%d addresses, networks or logins still have attempts", n)
	}
}

func TestPenaltyGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		var got []time.Duration
		for i := range 7 {
			got = append(got, v.wait(t, "192.0.2.1", "alice", fmt.Sprint("wrong", i)))
		}
		want := []time.Duration{0, 2 * time.Second, 4 * time.Second, 8 * time.Second, 15 * time.Second, 15 * time.Second, 15 * time.Second}
		if !slices.Equal(got, want) {
			t.Errorf("waited %v, want %v", got, want)
		}
	})
}

func TestPenaltyCountsForTheNetwork(t *testing.T) {
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
			v := newVerifier()
			v.wait(t, tt.first, "alice", "wrong")
			if waited := v.wait(t, tt.second, "bob", "wrong"); (waited > 0) != tt.same {
				t.Errorf("%s after %s waited %v", tt.second, tt.first, waited)
			}
		})
	}
}

func TestPenaltyExpiresAfterAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		for i := range 4 {
			v.wait(t, "192.0.2.1", "alice", fmt.Sprint("wrong", i))
		}
		time.Sleep(time.Hour)
		v.wait(t, "192.0.2.1", "alice", "wrong again")
		if waited := v.wait(t, "192.0.2.1", "alice", "and again"); waited != 2*time.Second {
			t.Errorf("waited %v, want to start over at 2s", waited)
		}
	})
}

func TestElapsedTimeCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		v.wait(t, "192.0.2.1", "alice", "wrong")
		time.Sleep(1500 * time.Millisecond)
		if waited := v.wait(t, "192.0.2.1", "alice", "right"); waited != 500*time.Millisecond {
			t.Errorf("waited %v, want the rest of 2s", waited)
		}
	})
}

func TestRepeatedWrongPasswordDoesNotIncreaseThePenalty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		for range 20 {
			v.wait(t, "192.0.2.1", "alice", "old password")
		}
		if waited := v.wait(t, "192.0.2.1", "alice", "old password"); waited != 2*time.Second {
			t.Errorf("waited %v, want 2s", waited)
		}
		// One password tried on every account is no repetition.
		v.wait(t, "192.0.2.1", "bob", "old password")
		if waited := v.wait(t, "192.0.2.1", "carol", "old password"); waited != 4*time.Second {
			t.Errorf("waited %v, want 4s", waited)
		}
	})
}

func TestTenWrongPasswordsAreRemembered(t *testing.T) {
	now := time.Now()
	p := new(penalty)
	p.repeated([16]byte{0}, now)
	for i := range wrongKept {
		if p.repeated([16]byte{1, byte(i)}, now) {
			t.Errorf("password %d counts as repeated, want new", i)
		}
	}
	if len(p.wrong) != wrongKept {
		t.Errorf("%d passwords are remembered, want %d", len(p.wrong), wrongKept)
	}
	if p.repeated([16]byte{0}, now) {
		t.Error("the eleventh last is still remembered")
	}
	if !p.repeated([16]byte{1, 9}, now) {
		t.Error("the last is not remembered")
	}
}

// However many connections guess at once: as many attempts as there are slots are
// verified before the first failure, and from then on one at a time, with delays.
func TestManyConnectionsGainOneBurst(t *testing.T) {
	for slots, want := range map[int][]time.Duration{
		1: {0, 2 * time.Second, 6 * time.Second, 14 * time.Second, 29 * time.Second},
		2: {0, 0, 4 * time.Second, 12 * time.Second, 27 * time.Second},
		8: {0, 0, 0, 0, 0, 0, 0, 0, 15 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			v := newVerifier()
			v.slots = slots
			start := time.Now()
			var mu sync.Mutex
			var begun []time.Duration
			running, most := 0, 0
			v.verify = func(string, string) Outcome {
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
				return Outcome{Result: WrongGuess, Secret: "x"}
			}
			var all sync.WaitGroup
			refused := 0
			for i := range 100 {
				all.Go(func() {
					_, err := v.logIn(t.Context(), "192.0.2.1", fmt.Sprint("user", i), "x")
					mu.Lock()
					defer mu.Unlock()
					if errors.Is(err, ErrPenalty) {
						refused++
					}
				})
			}
			all.Wait()
			if !slices.Equal(begun, want) || refused != 100-len(want) {
				t.Errorf("%d slots: verified at %v, %d refused; want %v", slots, begun, refused, want)
			}
			if most > 1 {
				t.Errorf("%d slots: %d at once after a failure", slots, most)
			}
			if waited := time.Since(start); waited > testConfig().MaxWait {
				t.Errorf("a login waited %v", waited)
			}
			v.checkQueuesEmpty(t)
		})
	}
}

// The users of an office who all log in for the first time do not wait.
func TestFirstLoginsOfAnAddressRunSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		v.slots = 2
		v.verify = func(login, _ string) Outcome {
			time.Sleep(time.Second)
			return Outcome{Result: Success, User: login}
		}
		start := time.Now()
		var all sync.WaitGroup
		for i := range 6 {
			all.Go(func() { v.wait(t, "192.0.2.1", fmt.Sprint("user", i), "right") })
		}
		all.Wait()
		if waited := time.Since(start); waited != 3*time.Second {
			t.Errorf("six logins of a second each took %v, want two at a time", waited)
		}
		v.checkQueuesEmpty(t)
	})
}

// A login that gives up, while it waits or later, makes room for the next one.
func TestGivingUpMakesRoomForTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		v.slots = 1
		addr := netip.MustParseAddr("192.0.2.1")
		first, err := v.Acquire(t.Context(), addr, "alice")
		if err != nil {
			t.Fatal(err)
		}
		ctx, hangUp := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := v.Acquire(ctx, addr, "bob"); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
		synctest.Wait()
		all.Go(func() {
			a, err := v.Acquire(t.Context(), addr, "carol")
			if err != nil {
				t.Error(err)
				return
			}
			a.Done(Outcome{Result: Success})
		})
		synctest.Wait()
		hangUp()
		synctest.Wait()
		first.Yield()
		all.Wait()
		v.checkQueuesEmpty(t)
	})
}

func TestLoginThatWouldWaitTooLongIsRefusedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		for i := range 5 {
			v.wait(t, "192.0.2.1", "alice", fmt.Sprint("wrong", i))
		}
		for range 2 { // they wait for 15 and 30 seconds
			go v.logIn(t.Context(), "192.0.2.1", "alice", "x")
		}
		synctest.Wait()
		start := time.Now()
		_, err := v.logIn(t.Context(), "192.0.2.1", "alice", "x")
		if !errors.Is(err, ErrPenalty) || time.Since(start) != 0 {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		time.Sleep(time.Minute)
	})
}

func TestHangingUpGainsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		v.wait(t, "192.0.2.1", "alice", "wrong")
		for i := range 50 {
			ctx, hangUp := context.WithCancel(t.Context())
			if i%2 == 0 { // the time for the reply may end as well
				ctx, hangUp = context.WithTimeout(t.Context(), 10*time.Millisecond)
			} else {
				time.AfterFunc(10*time.Millisecond, hangUp)
			}
			_, err := v.logIn(ctx, "192.0.2.1", "alice", "x")
			if !errors.Is(err, context.Cause(ctx)) || err == nil {
				t.Fatalf("got %v before the delay was over", err)
			}
			if late := errors.Is(ctx.Err(), context.DeadlineExceeded); errors.Is(err, ErrPenalty) != late {
				t.Fatalf("got %v, late: %v", err, late)
			}
			hangUp()
		}
		if waited := v.wait(t, "192.0.2.1", "alice", "right"); waited != 1500*time.Millisecond {
			t.Errorf("waited %v, want the rest of 2s", waited)
		}
		v.checkQueuesEmpty(t)
	})
}

func TestExemptNetworksDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig()
		cfg.Exempt = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::25/128"), netip.MustParsePrefix("fe80::/10")}
		v := verifier{New(cfg), checkRight}
		for i := range 10 {
			for _, addr := range []string{"192.0.2.7", "::ffff:192.0.2.7", "2001:db8::25", "fe80::1%eth0"} {
				if waited := v.wait(t, addr, "alice", fmt.Sprint("wrong", i)); waited != 0 {
					t.Errorf("%s waited %v", addr, waited)
				}
			}
		}
		v.Configure(testConfig())
		v.wait(t, "192.0.2.7", "alice", "wrong")
		if waited := v.wait(t, "192.0.2.7", "alice", "right"); waited != 2*time.Second {
			t.Errorf("no longer exempt: waited %v", waited)
		}
	})
}

func TestConfigureForgetsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		v.wait(t, "192.0.2.1", "alice", "right")
		v.wait(t, "192.0.2.1", "eve", "wrong")
		v.Configure(testConfig())
		if waited := v.wait(t, "192.0.2.1", "alice", "right"); waited != 0 {
			t.Errorf("alice waited %v", waited)
		}
		if waited := v.wait(t, "192.0.2.1", "eve", "wrong"); waited != 2*time.Second {
			t.Errorf("eve waited %v", waited)
		}
	})
}

func TestUndecidedAttemptsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		for range 5 {
			if waited := v.wait(t, "192.0.2.1", "alice", "broken"); waited != 0 {
				t.Errorf("waited %v", waited)
			}
		}
		if n := len(v.penalties.active) + v.penalties.idle.Len(); n != 0 {
			t.Errorf("%d addresses are remembered", n)
		}
	})
}

// A mechanism that does not get a password leaves Outcome.Secret empty.
func TestGuessesWithoutSecretAreNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		v.verify = func(string, string) Outcome { return Outcome{Result: WrongGuess} }
		for _, want := range []time.Duration{0, 2 * time.Second, 4 * time.Second} {
			if waited := v.wait(t, "192.0.2.1", "alice", ""); waited != want {
				t.Errorf("waited %v, want %v", waited, want)
			}
		}
	})
}

func TestMemoryOfPenaltiesIsBounded(t *testing.T) {
	v := newVerifier()
	v.penalties.idle = lru.New[netip.Prefix, *penalty](100)
	for i := range 1000 {
		addr := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}).String()
		if _, err := v.logIn(t.Context(), addr, fmt.Sprint("user", i), "wrong"); err != nil {
			t.Fatal(err)
		}
	}
	if v.penalties.idle.Len() != 100 {
		t.Errorf("%d idle penalties, want 100", v.penalties.idle.Len())
	}
	v.checkQueuesEmpty(t)
}

// TestOtherUsers: penalties belong to an address, whatever the stores, but a login is another
// user in other stores, and its success makes no known pair elsewhere.
func TestOtherUsers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here := newVerifier()
		there := verifier{here.For("newsletter"), checkRight}
		there.wait(t, "192.0.2.1", "alice", "right")
		if known, err := here.logIn(t.Context(), "192.0.2.1", "alice", "guess"); err != nil || known {
			t.Errorf("alice of other stores makes alice known here: %v, %v", known, err)
		}
		if known, err := there.logIn(t.Context(), "192.0.2.1", "alice", "right"); err != nil || !known {
			t.Errorf("alice is not known there: %v, %v", known, err)
		}
		if took := there.wait(t, "192.0.2.1", "bob", "right"); took != 2*time.Second {
			t.Errorf("bob waits for %v after the wrong guess from his address", took)
		}
	})
}
