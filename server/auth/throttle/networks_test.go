package throttle

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// fail makes n failed logins of different addresses below base, which has 16 bits free for
// each.
func (v verifier) fail(t *testing.T, pattern string, from, n int) {
	t.Helper()
	for i := range n {
		v.verify = checkRight
		a, err := v.Acquire(t.Context(), netip.MustParseAddr(fmt.Sprintf(pattern, from+i)), fmt.Sprint("user", pattern, from+i))
		if err != nil {
			t.Fatal(err)
		}
		a.Done(Outcome{Result: WrongGuess})
	}
}

func TestFailuresCountForLargerNetworks(t *testing.T) {
	tests := []struct {
		pattern  string
		failures int
		addr     string
		want     time.Duration
	}{
		{"2001:db8:0:1%02x::1", 3, "2001:db8:0:1ff::1", 0},
		{"2001:db8:0:1%02x::1", 4, "2001:db8:0:1ff::1", 2 * time.Second},
		{"2001:db8:0:1%02x::1", 8, "2001:db8:0:1ff::1", 4 * time.Second},
		{"2001:db8:0:1%02x::1", 100, "2001:db8:0:1ff::1", 4 * time.Second},
		{"2001:db8:0:1%02x::1", 8, "2001:db8:0:2ff::1", 0},
		{"2001:db8:0:%02x00::1", 15, "2001:db8:0:ff00::1", 0},
		{"2001:db8:0:%02x00::1", 16, "2001:db8:0:ff00::1", 2 * time.Second},
		{"2001:db8:0:%02x00::1", 100, "2001:db8:0:ff00::1", 4 * time.Second},
		{"2001:db8:0:%02x00::1", 100, "2001:db8:1:ff00::1", 0},
		{"192.0.2.%d", 200, "192.0.2.250", 0},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			v := newVerifier()
			v.fail(t, tt.pattern, 0, tt.failures)
			if waited := v.wait(t, tt.addr, "alice", "right"); waited != tt.want {
				t.Errorf("after %d failures of %s, %s waited %v, want %v", tt.failures, tt.pattern, tt.addr, waited, tt.want)
			}
			if waited := v.wait(t, tt.addr, "alice", "right"); waited != 0 {
				t.Errorf("a known pair waited %v", waited)
			}
			time.Sleep(networkDelay)
			if waited := v.wait(t, tt.addr, "bob", "right"); waited != 0 {
				t.Errorf("%v after the last failure, %s waited %v", networkDelay, tt.addr, waited)
			}
		})
	}
}

// Failures of a network never refuse an attempt, whatever MaxWait is.
func TestLargerNetworksNeverRefuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		v.Configure(Config{MaxWait: time.Second})
		v.fail(t, "2001:db8:0:%02x00::1", 0, 200)
		if waited := v.wait(t, "2001:db8:0:ff00::1", "alice", "right"); waited != networkDelay {
			t.Errorf("waited %v", waited)
		}
	})
}

func TestSuccessesReduceFailuresOfNetworks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		v.fail(t, "2001:db8:0:1%02x::1", 0, 8)
		for range 20 { // one user takes only one failure away
			v.wait(t, "2001:db8:0:1fe::1", "mallory", "right")
		}
		v.fail(t, "2001:db8:0:1%02x::1", 100, 1)
		if waited := v.wait(t, "2001:db8:0:1ff::1", "alice", "broken"); waited != 4*time.Second {
			t.Errorf("waited %v, want 4s", waited)
		}
		for i := range 8 {
			v.wait(t, fmt.Sprintf("2001:db8:0:1e%x::1", i), fmt.Sprint("user", i), "right")
		}
		v.fail(t, "2001:db8:0:1%02x::1", 120, 1)
		if waited := v.wait(t, "2001:db8:0:1ff::1", "alice", "right"); waited != 0 {
			t.Errorf("after as many successes, waited %v", waited)
		}
	})
}
