package ldap

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"postern/internal/ldapclient/ldaptest"
	"postern/server/auth"
)

// An entry has one vote, so the owner of one or two accounts does not choose the time of unknown
// users, neither right after the start nor later.
func TestLoginsDoNotChooseTheDelay(t *testing.T) {
	const own, usual = 900 * time.Millisecond, 80 * time.Millisecond
	refused := &auth.Failure{Kind: auth.BadPassword}
	for name, err := range map[string]error{"accepted": nil, "refused": refused} {
		var b bindTimes
		attack := func() {
			for i := range 100 {
				b.add([]string{"uid=mallory", "UID=Mallory", "uid=mal"}[i%3], own, err)
			}
		}
		attack()
		for i := range 3 {
			b.add(fmt.Sprint("uid=", i), usual, err)
		}
		if got := b.usual(0); got != usual {
			t.Errorf("%s: %v, want %v", name, got, usual)
		}
		attack()
		if got := b.usual(0); got != usual {
			t.Errorf("%s, at last: %v, want %v", name, got, usual)
		}
	}
}

// What is imitated is a refusal. A bind without an answer is none.
func TestUsualBindTime(t *testing.T) {
	var b bindTimes
	steps := []struct {
		took time.Duration
		err  error
		want time.Duration
	}{
		{50, errors.New("no answer"), 1},
		{5, nil, 5},
		{50, errors.New("no answer"), 5},
		{9, &auth.Failure{Kind: auth.BadPassword}, 9},
		{5, nil, 9},
		{11, &auth.Failure{Kind: auth.Expired}, 11},
	}
	for i, step := range steps {
		b.add("uid=alice", step.took, step.err)
		if got := b.usual(1); got != step.want {
			t.Errorf("step %d: %d, want %d", i, got, step.want)
		}
	}
	for i := range 10 * maxEntries {
		b.add(fmt.Sprint(i), 7, nil)
		b.add(fmt.Sprint(i), 7, steps[3].err)
	}
	for _, e := range []entryTimes{b.refused, b.accepted} {
		if len(e.last) != maxEntries || len(e.order) != maxEntries || e.median(0) != 7 {
			t.Errorf("%d entries, %d in order, median %d", len(e.last), len(e.order), e.median(0))
		}
	}
}

// An unknown user takes the same connections as a wrong password: a connection for the search, and
// one for the bind.
func TestUnknownUsersTakeAConnection(t *testing.T) {
	for login, want := range map[string]string{"alice": "wrong password", "nobody": "no such user"} {
		f := ldaptest.Start(t, ldaptest.People)
		s := open(t, withService(t, f.URL()))
		for range 2 {
			if got := verify(t, s, login, "wrong"); got != want {
				t.Errorf("%s: %s", login, got)
			}
		}
		if n := f.Connections(); n != 2 {
			t.Errorf("%s: %d connections, want 2", login, n)
		}
	}
}
