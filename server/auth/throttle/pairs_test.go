package throttle

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// guesses lets n wrong passwords be verified at once, and returns how many of them were
// verified without delay. Each takes half a second.
func (v verifier) guesses(t *testing.T, addr, login string, n int) (atOnce int) {
	start := time.Now()
	var mu sync.Mutex
	v.verify = func(_, password string) Outcome {
		mu.Lock()
		if time.Since(start) == 0 {
			atOnce++
		}
		mu.Unlock()
		time.Sleep(time.Second / 2)
		return Outcome{Result: WrongGuess, Secret: password}
	}
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { _, _ = v.logIn(t.Context(), addr, login, fmt.Sprint(start, "guess", i)) })
	}
	all.Wait()
	return atOnce
}

// A known pair has ten mistakes, however many attempts are verified at once. The others are
// ordinary attempts of its address.
func TestMistakesOfAKnownPairAreReserved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		v.slots = 1
		v.wait(t, "192.0.2.1", "alice", "right")
		if n := v.guesses(t, "192.0.2.1", "alice", 45); n != 11 {
			t.Errorf("%d guesses were verified at once, want ten of the pair and one of the address", n)
		}
		if waited := v.wait(t, "192.0.2.1", "bob", "right"); waited == 0 {
			t.Error("nothing counts against the address")
		}
		v.checkQueuesEmpty(t)
	})
}

// Attempts that end without a new wrong password give their mistake back.
func TestReservedMistakesAreGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		v.wait(t, "192.0.2.1", "alice", "right")
		v.wait(t, "192.0.2.1", "alice", "old password")
		for range 5 {
			for _, password := range []string{"right", "broken", "old password"} {
				if waited := v.wait(t, "192.0.2.1", "alice", password); waited != 0 {
					t.Fatalf("%s waited %v", password, waited)
				}
			}
		}
		a, err := v.Acquire(t.Context(), netip.MustParseAddr("192.0.2.1"), "alice")
		if err != nil {
			t.Fatal(err)
		}
		a.Yield()
		if n := v.guesses(t, "192.0.2.1", "alice", 9); n != 9 {
			t.Errorf("%d of the nine mistakes that are left", n)
		}
	})
}

// A client with an account that alternates right and wrong passwords loses the privilege of
// its pairs, and gets it back with time.
func TestSuccessDoesNotEraseMistakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		addr := func(i int) string { return fmt.Sprintf("10.0.%d.1", i) }
		known := 0
		count := func(i int, password string) {
			isKnown, err := v.logIn(t.Context(), addr(i), "mallory", password)
			if err != nil {
				t.Fatal(err)
			}
			if isKnown && password != "right" {
				known++
			}
		}
		for i := range 20 { // more addresses than are remembered
			v.wait(t, addr(i), "mallory", "right")
		}
		begun := time.Now()
		for round := range 3 {
			for i := range 20 {
				count(i, "right")
				for guess := range 9 {
					if time.Since(begun) < time.Hour {
						count(i, fmt.Sprint("wrong", round, i, guess))
					}
				}
			}
		}
		if most := int(userMistakes.most + userMistakes.perHour); known > most {
			t.Errorf("%d wrong passwords of known pairs within an hour, want at most %d", known, most)
		}
		time.Sleep(time.Hour)
		count(0, "right")
		known = 0
		count(0, "typo")
		if known != 1 {
			t.Error("the privilege has not come back after an hour")
		}
	})
}

// If the pair is displaced while its attempt is verified, the address pays.
func TestDisplacedPairCountsAgainstTheAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		v.wait(t, "192.0.2.1", "alice", "right")
		a, err := v.Acquire(t.Context(), netip.MustParseAddr("192.0.2.1"), "alice")
		if err != nil || !a.Known {
			t.Fatal(a, err)
		}
		for i := range knownPerLogin {
			v.wait(t, fmt.Sprintf("10.0.%d.1", i), "alice", "right")
		}
		a.Done(Outcome{Result: WrongGuess, Secret: "x"})
		if waited := v.wait(t, "192.0.2.1", "bob", "right"); waited != 2*time.Second {
			t.Errorf("bob waited %v, want 2s", waited)
		}
	})
}

// Privileges compare logins exactly: to some stores, Bob and bob are two users.
func TestPrivilegesCompareExactly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		v.wait(t, "192.0.2.1", "Bob", "right")
		for _, login := range []string{"bob", "BOB", "Bob ", "Bób", "Ｂob"} {
			if known, err := v.logIn(t.Context(), "192.0.2.1", login, "broken"); err != nil || known {
				t.Errorf("%q is known, since Bob is: %v", login, err)
			}
		}
		if known, err := v.logIn(t.Context(), "192.0.2.1", "Bob", "broken"); err != nil || !known {
			t.Errorf("Bob is not known: %v", err)
		}
	})
}

// The privilege of a login ends when it belongs to another user.
func TestPairsBelongToTheIdentity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		user := "store1\x00alice"
		v.verify = func(string, string) Outcome { return Outcome{Result: Success, User: user} }
		v.wait(t, "192.0.2.1", "alice", "right")
		v.wait(t, "192.0.2.2", "alice", "right")
		user = "store2\x00alice"
		v.wait(t, "192.0.2.2", "alice", "right")
		for addr, want := range map[string]bool{"192.0.2.1": false, "192.0.2.2": true} {
			if known, err := v.logIn(t.Context(), addr, "alice", "right"); err != nil || known != want {
				t.Errorf("alice at %s is known: %v, %v; want %v", addr, known, err, want)
			}
		}
	})
}

// The refusal of a wrong password takes as long as that of a login that is not known.
func TestAnswerOfAKnownPairTakesAsLongAsAnyOther(t *testing.T) {
	for _, failures := range []int{0, 1, 3, 5} {
		synctest.Test(t, func(t *testing.T) {
			v := newVerifier()
			v.wait(t, "192.0.2.1", "alice", "right")
			for i := range failures {
				v.wait(t, "192.0.2.1", fmt.Sprint("user", i), "wrong")
			}
			addr := netip.MustParseAddr("192.0.2.1")
			took := func(login, password string) time.Duration {
				start := time.Now()
				a, err := v.Acquire(t.Context(), addr, login)
				if err != nil {
					t.Fatal(err)
				}
				a.Done(v.verify(login, password))
				if err := a.AwaitAnswer(t.Context()); err != nil {
					t.Fatal(err)
				}
				return time.Since(start)
			}
			if d := took("alice", "right"); d != 0 {
				t.Errorf("after %d failures: the right password took %v", failures, d)
			}
			known := took("alice", "wrong")
			if want := penaltyDelays[min(failures, len(penaltyDelays)-1)]; known != want {
				t.Errorf("after %d failures: the wrong password of a known pair took %v, want %v", failures, known, want)
			}
			if other := took("carol", "wrong"); other != known {
				t.Errorf("after %d failures: known %v, unknown %v", failures, known, other)
			}
			v.checkQueuesEmpty(t)
		})
	}
}

// The same holds in the network of a known pair, for the delay that is spared there.
func TestAnswerInAKnownNetworkTakesAsLongAsAnyOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		v.wait(t, "192.0.2.1", "alice", "right")
		for i := range int(guessRate.most) {
			v.wait(t, bot(i), "alice", "wrong")
		}
		guess := func(ctx context.Context, addr, password string) error {
			a, err := v.Acquire(ctx, netip.MustParseAddr(addr), "alice")
			if err != nil {
				return err
			}
			a.Done(v.verify("alice", password))
			return a.AwaitAnswer(ctx)
		}
		if waited := v.wait(t, "192.0.2.2", "alice", "right"); waited != 0 {
			t.Errorf("the right password waited %v", waited)
		}
		for addr, want := range map[string]error{"192.0.2.1": ErrLoginBusy, "192.0.2.3": ErrLoginBusy, "203.0.113.1": ErrLoginBusy} {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			start := time.Now()
			if err := guess(ctx, addr, "x"+addr); !errors.Is(err, want) || time.Since(start) != 20*time.Second {
				t.Errorf("%s: %v after %v, want %v", addr, err, time.Since(start), want)
			}
			cancel()
		}
		v.checkQueuesEmpty(t)
	})
}

// Where another login would be refused, the wrong password of a known pair is, too.
func TestAnswerOfAKnownPairIsRefusedLikeAnyOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		v.wait(t, "192.0.2.1", "alice", "right")
		for i := range 5 {
			v.wait(t, "192.0.2.1", "eve", fmt.Sprint("wrong", i))
		}
		for range 2 { // they wait for 15 and 30 seconds
			go func() { _, _ = v.logIn(t.Context(), "192.0.2.1", "eve", "x") }()
		}
		synctest.Wait()
		a, err := v.Acquire(t.Context(), netip.MustParseAddr("192.0.2.1"), "alice")
		if err != nil {
			t.Fatal(err)
		}
		a.Done(Outcome{Result: WrongGuess, Secret: "x"})
		if err := a.AwaitAnswer(t.Context()); err != ErrPenalty {
			t.Errorf("got %v, want ErrPenalty", err)
		}
		time.Sleep(time.Minute)
	})
}

// A question without a verdict costs one guess, however often, and the login none.
func TestUnansweredCostsOneGuess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		v.verify = func(_, password string) Outcome { return Outcome{Result: Unanswered, Secret: password} }
		v.wait(t, "192.0.2.1", "alice", "a")
		for i := range 5 {
			if waited := v.wait(t, "192.0.2.1", "alice", fmt.Sprint(i)); waited != 2*time.Second {
				t.Errorf("waited %v, want 2s", waited)
			}
		}
		if used := v.logins.counts[v.countOf("alice")].used; used != 0 {
			t.Errorf("%v guesses of the login are used", used)
		}
	})
}
