package throttle

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/server/auth/hash"
)

// restart returns a verifier with what v has saved.
func (v verifier) restart(t *testing.T) verifier {
	t.Helper()
	again := newVerifier()
	if err := again.Load(v.ids, v.Save()); err != nil {
		t.Fatal(err)
	}
	return again
}

func TestPairsAndCountsSurviveARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		if v.Changed() {
			t.Error("a new throttle has something to save")
		}
		v.wait(t, "192.0.2.1", "alice", "right")
		for i := range 9 {
			v.wait(t, "192.0.2.1", "alice", fmt.Sprint("typo", i))
		}
		v.wait(t, "2001:db8::1", "alice", "right")
		for i := range int(guessRate.most) {
			v.wait(t, bot(i), "bob", "wrong")
		}
		if !v.Changed() {
			t.Error("there is nothing to save")
		}
		again := v.restart(t)
		if v.Changed() || again.Changed() {
			t.Error("there is something to save after Save")
		}
		if n := again.guesses(t, "192.0.2.1", "alice", 5); n < 1 || n > 1+again.slots {
			t.Errorf("%d guesses of a known pair with one mistake left", n)
		}
		if known, err := again.logIn(t.Context(), "2001:db8::1", "alice", "right"); err != nil || !known {
			t.Errorf("alice is not known after a restart: %v, %v", known, err)
		}
		if left := again.logins.counts[again.countOf("bob")].left(time.Now(), guessRate); left > 1 {
			t.Errorf("%v guesses for bob are left after a restart", left)
		}
		if n := again.networks.idle.Len(); n < int(guessRate.most) {
			t.Errorf("the failures of %d networks are remembered", n)
		}
		time.Sleep(knownFor)
		if known, err := v.restart(t).logIn(t.Context(), "2001:db8::1", "alice", "right"); err != nil || known {
			t.Errorf("alice is known after 30 days: %v, %v", known, err)
		}
	})
}

// A count that is full but for a rounding remainder is saved and loaded like any other. The
// smallest remainder is lost in most - used, the next ones are not.
func TestCountsWithARoundingRemainderSurviveARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, used := range []float64{1e-300, 1e-16, 1e-14, 1e-9, 0.5, guessRate.most - 1e-9, guessRate.most} {
			v := newVerifier()
			full := v.countOf("alice")
			partly := full + 1
			v.logins.counts[full] = budget{used: used, at: time.Now()}
			v.logins.counts[partly] = budget{used: 7, at: time.Now()}
			again := v.restart(t)
			if left := again.logins.counts[partly].left(time.Now(), guessRate); left != guessRate.most-7 {
				t.Errorf("used %g: %v guesses of another login are left, want %v", used, left, guessRate.most-7)
			}
			left := again.logins.counts[full].left(time.Now(), guessRate)
			if want := guessRate.most - used; left < want-1e-4 || left > want+1e-4 {
				t.Errorf("used %g: %v guesses are left, want %v", used, left, want)
			}
		}
	})
}

// The file shows neither logins nor addresses of users.
func TestSavedPairsAreHashed(t *testing.T) {
	v := newVerifier()
	v.wait(t, "192.0.2.1", "alice", "right")
	saved := v.Save()
	for _, plain := range []string{"alice", "192.0.2", "\xc0\x00\x02", "right"} {
		if bytes.Contains(saved, []byte(plain)) {
			t.Errorf("%q can be read", plain)
		}
	}
}

func TestDamagedStateIsNotLoaded(t *testing.T) {
	v := newVerifier()
	v.wait(t, "192.0.2.1", "alice", "right")
	v.wait(t, "192.0.2.2", "bob", "wrong")
	saved := v.Save()
	check := func(what string, key hash.Key, saved []byte, want string) {
		t.Helper()
		again := newVerifier()
		if err := again.Load(key, saved); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an error with %q", what, err, want)
		}
		if again.known.logins.Len() != 0 || again.networks.idle.Len() != 0 {
			t.Errorf("%s: something was taken over", what)
		}
		again.wait(t, "192.0.2.1", "alice", "right")
	}
	for i := range saved {
		flipped := bytes.Clone(saved)
		flipped[i] ^= 1
		want := "damaged"
		if i < len(savedFormat) {
			want = "format"
		}
		check(fmt.Sprint("octet ", i), v.ids, flipped, want)
	}
	check("cut", v.ids, saved[:len(saved)/2], "damaged")
	check("empty", v.ids, []byte{}, "format")
	check("only the first line", v.ids, []byte(savedFormat), "damaged")
	check("another secret", hash.NewKey(), saved, "another secret")

	body := append(bytes.Clone(saved[:len(saved)-32]), 0)
	check("too long", v.ids, append(body, checksum(v.ids, body)...), "length")
	body = bytes.Clone(saved[:len(saved)-33])
	check("too short", v.ids, append(body, checksum(v.ids, body)...), "length")
	if err := newVerifier().Load(v.ids, nil); err != nil {
		t.Errorf("nothing to load: %v", err)
	}
}

// A clock that was wrong does not make pairs known for longer than 30 days.
func TestTimesOfTheFutureAreNotLoaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier()
		v.wait(t, "192.0.2.1", "alice", "right")
		for _, login := range v.known.logins.All() {
			login.pairs[0].last = time.Now().AddDate(10, 0, 0)
		}
		again := v.restart(t)
		time.Sleep(knownFor)
		a, err := again.Acquire(t.Context(), netip.MustParseAddr("192.0.2.1"), "alice")
		if err != nil || a.Known {
			t.Errorf("known: %v, %v", a.Known, err)
		}
	})
}

// BenchmarkSave has as many pairs as a server with 1,000 users.
func BenchmarkSave(b *testing.B) {
	v := newVerifier()
	for i := range 4000 {
		a, err := v.Acquire(b.Context(), netip.MustParseAddr(bot(i)), fmt.Sprint("user", i/4))
		if err != nil {
			b.Fatal(err)
		}
		a.Done(Outcome{Result: Success})
	}
	b.ReportAllocs()
	for b.Loop() {
		b.SetBytes(int64(len(v.Save())))
	}
}
