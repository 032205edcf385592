package throttle

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestKnownPairDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		check := func(addr, login, password string, want time.Duration, wantKnown bool) {
			t.Helper()
			start := time.Now()
			known, err := v.logIn(t.Context(), addr, login, password)
			if waited := time.Since(start); err != nil || waited != want || known != wantKnown {
				t.Errorf("%s at %s waited %v, known: %v, error %v; want %v, %v", login, addr, waited, known, err, want, wantKnown)
			}
		}
		check("192.0.2.1", "alice", "right", 0, false)
		for i := range 5 {
			v.wait(t, "192.0.2.1", "eve", fmt.Sprint("wrong", i))
		}
		check("192.0.2.1", "alice", "right", 0, true)
		check("192.0.2.1", "eve", "wrong", 15*time.Second, false) // a success of alice does not help her
		check("192.0.2.9", "alice", "wrong", 0, false)
		check("192.0.2.9", "alice", "right", 2*time.Second, false) // alice is known at the other address only
	})
}

func TestKnownPairExpiresAfterThirtyDays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		v.wait(t, "192.0.2.1", "alice", "right")
		time.Sleep(30 * 24 * time.Hour)
		v.wait(t, "192.0.2.1", "eve", "wrong")
		if waited := v.wait(t, "192.0.2.1", "alice", "right"); waited != 2*time.Second {
			t.Errorf("waited %v", waited)
		}
	})
}

func TestKnownPairMayNotGuessForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		v.wait(t, "192.0.2.1", "alice", "right")
		for range 50 {
			if waited := v.wait(t, "192.0.2.1", "alice", "old password"); waited != 0 {
				t.Fatalf("the same wrong password waited %v", waited)
			}
		}
		var waited time.Duration
		for i := range 15 {
			waited += v.wait(t, "192.0.2.1", "alice", fmt.Sprint("guess", i))
		}
		if waited == 0 {
			t.Error("15 guesses without waiting")
		}
	})
}

func TestMistakesOfAKnownPairDoNotDelayItsNeighbours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		v.wait(t, "192.0.2.1", "alice", "right")
		for i := range 5 {
			v.wait(t, "192.0.2.1", "alice", fmt.Sprint("typo", i))
		}
		if waited := v.wait(t, "192.0.2.1", "bob", "right"); waited != 0 {
			t.Errorf("bob waited %v", waited)
		}
	})
}

func TestOneAccountDisplacesNoOtherPairs(t *testing.T) {
	v := newVerifier()
	addr := func(i int) string { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}).String() }
	v.wait(t, addr(1), "alice", "right")
	for i := range 2 * knownLogins {
		v.wait(t, addr(i), "mallory", "right")
	}
	known := func(i int, login string) bool {
		a, err := v.Acquire(t.Context(), netip.MustParseAddr(addr(i)), login)
		if err != nil {
			t.Fatal(err)
		}
		a.Yield()
		return a.Known
	}
	if !known(1, "alice") {
		t.Error("alice is forgotten")
	}
	if known(0, "mallory") || !known(2*knownLogins-1, "mallory") {
		t.Error("the pair that was removed is not the oldest")
	}
	if known(2*knownLogins-knownPerLogin-1, "mallory") || !known(2*knownLogins-knownPerLogin, "mallory") {
		t.Errorf("mallory does not have %d pairs", knownPerLogin)
	}
}

// A store may accept any number of logins for one user; only a few are remembered.
func TestLoginsOfOneUserDisplaceNoOtherPairs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		v.verify = func(login, password string) Outcome {
			local, _, _ := strings.Cut(login, "@")
			return checkRight(local, password)
		}
		v.wait(t, "192.0.2.1", "alice", "right")
		for i := range 2 * knownLogins {
			v.wait(t, "192.0.2.2", fmt.Sprintf("mallory@%d.example.org", i), "right")
		}
		v.wait(t, "192.0.2.1", "eve", "wrong")
		if waited := v.wait(t, "192.0.2.1", "alice", "right"); waited != 0 {
			t.Errorf("alice is forgotten: waited %v", waited)
		}
		if n := v.known.logins.Len(); n != knownPerUser+1 {
			t.Errorf("%d logins remembered of two users", n)
		}
	})
}
