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

// bot returns the address of a bot; each has a network of its own.
func bot(i int) string { return fmt.Sprintf("10.%d.%d.7", i/250, i%250) }

// attack lets n bots guess one after the other for alice, each without a pause, until end.
// It returns how many guesses were verified.
func (v verifier) attack(ctx context.Context, all *sync.WaitGroup, n int, end time.Time) *int {
	var mu sync.Mutex
	verified := new(int)
	for i := range n {
		all.Go(func() {
			for guess := 0; time.Now().Before(end); guess++ {
				reply, cancel := context.WithTimeout(ctx, 110*time.Second)
				_, err := v.logIn(reply, bot(i), "alice", fmt.Sprint("wrong", i, guess))
				cancel()
				if err == nil {
					mu.Lock()
					*verified++
					mu.Unlock()
				}
				time.Sleep(time.Second)
			}
		})
	}
	return verified
}

func TestGuessesForOneLoginAreBoundedOverAllAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		v.wait(t, "192.0.2.1", "alice", "right")
		var all sync.WaitGroup
		verified := v.attack(t.Context(), &all, 300, time.Now().Add(time.Hour-2*time.Minute))
		time.Sleep(30 * time.Minute)
		// The owner is not locked out: not at known addresses, nor in known networks.
		for _, addr := range []string{"192.0.2.1", "192.0.2.99"} {
			if waited := v.wait(t, addr, "alice", "right"); waited != 0 {
				t.Errorf("the owner at %s waited %v", addr, waited)
			}
		}
		all.Wait()
		if most := int(guessRate.most + guessRate.perHour); *verified > most || *verified < most/2 {
			t.Errorf("%d guesses were verified within an hour, want at most %d", *verified, most)
		}
		v.checkQueuesEmpty(t)
	})
}

// An owner at a new network goes before networks that have guessed.
func TestOwnerAtANewNetworkGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		var all sync.WaitGroup
		v.attack(t.Context(), &all, 40, time.Now().Add(2*time.Hour))
		for i := range 20 {
			time.Sleep(5 * time.Minute)
			if waited := v.wait(t, fmt.Sprintf("172.16.%d.1", i), "alice", "right"); waited != 0 {
				t.Errorf("the owner waited %v at new network %d", waited, i)
			}
		}
		all.Wait()
	})
}

// When no guess is left, turns go round by network: one network with many attempts does
// not keep others out.
func TestTurnsGoRoundByNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		for i := range int(guessRate.most) {
			v.wait(t, bot(i), "alice", "wrong")
		}
		var order []string
		var mu sync.Mutex
		var all sync.WaitGroup
		guess := func(addr, name string) {
			all.Go(func() {
				if _, err := v.logIn(t.Context(), addr, "alice", "wrong"+addr); err != nil {
					t.Error(err)
				}
				mu.Lock()
				order = append(order, name)
				mu.Unlock()
			})
			synctest.Wait()
		}
		for i := range 3 {
			guess(fmt.Sprintf("203.0.113.%d", i), fmt.Sprint("crowd", i))
		}
		guess("198.51.100.1", "owner")
		all.Wait()
		if order[0] != "crowd0" || order[1] != "owner" {
			t.Errorf("order %v, want the owner after one attempt of the crowd", order)
		}
	})
}

func TestWaitForALoginEndsInATemporaryError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		for i := range int(guessRate.most) {
			v.wait(t, bot(i), "alice", "wrong")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		start := time.Now()
		_, err := v.logIn(ctx, "192.0.2.1", "alice", "right")
		if !errors.Is(err, ErrLoginBusy) || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 20*time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		hangUp, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := v.logIn(hangUp, "192.0.2.1", "alice", "right"); !errors.Is(err, context.Canceled) || errors.Is(err, ErrLoginBusy) {
			t.Errorf("a client that hangs up: %v", err)
		}
		if waited := v.wait(t, "192.0.2.1", "bob", "right"); waited != 0 {
			t.Errorf("bob waited %v: waiting counts against the client", waited)
		}
		v.checkQueuesEmpty(t)
	})
}

// Every way to write a login that some store might accept has one count.
func TestGuessesCompareLoginsWidely(t *testing.T) {
	v := newVerifier()
	for _, login := range []string{"BOB", " bob", "b o b", "Ｂｏｂ", "bób", "bo\u0301b", "b\u00adob", "bob\u200b", "ⓑob"} {
		if v.countOf(login) != v.countOf("bob") {
			t.Errorf("%q has a count of its own: %q", login, Fold(login))
		}
	}
	if v.countOf("straße") != v.countOf("STRASSE") {
		t.Error("straße and STRASSE are not compared by full case folding")
	}
	if v.countOf("bob") == v.countOf("rob") || v.countOf("bob") == v.For("other").countOf("bob") {
		t.Error("different users have one count")
	}
	local := v.Accounts(func(login string) string { return "bob" })
	if local.countOf("bob@example.net") != v.countOf("bob") {
		t.Error("Accounts is not used")
	}
}

// FuzzFold checks that folding is stable: what is equal stays equal.
func FuzzFold(f *testing.F) {
	f.Add("Bób @Example.ORG")
	f.Fuzz(func(t *testing.T, login string) {
		once := Fold(login)
		if len(once) <= foldMax && Fold(once) != once {
			t.Errorf("Fold(%q) = %q, folded again %q", login, once, Fold(once))
		}
	})
}

// Guesses for other logins, existing or not, do not bring guesses back.
func TestCountsAreNotDisplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		for i := range int(guessRate.most) {
			v.wait(t, bot(i), "alice", "wrong")
		}
		for i := range loginCounted {
			login := fmt.Sprint("user", i)
			if v.countOf(login) == v.countOf("alice") {
				continue // it would wait, too
			}
			a, err := v.Acquire(t.Context(), netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}), login)
			if err != nil {
				t.Fatal(err)
			}
			a.Done(Outcome{Result: WrongGuess})
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if _, err := v.logIn(ctx, "192.0.2.1", "alice", "guess"); !errors.Is(err, ErrLoginBusy) {
			t.Errorf("got %v, want that there is no guess left", err)
		}
	})
}
