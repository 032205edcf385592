package auth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// A moody store refuses the logins in hangs by not answering, loses the connection of those in
// loses, cannot be reached by those in unreachable, and refuses all others after a second.
type moodyStore struct{ hangs, loses, unreachable func(login string) bool }

func (m moodyStore) VerifyPassword(ctx context.Context, _ *Peer, login, password string) (Identity, error) {
	is := func(f func(string) bool) bool { return f != nil && f(login) }
	if is(m.unreachable) {
		<-ctx.Done()
		return Identity{}, ctx.Err()
	}
	answered := Asking(ctx)
	if is(m.hangs) {
		<-ctx.Done()
		return Identity{}, ctx.Err()
	}
	time.Sleep(time.Second)
	if is(m.loses) {
		return Identity{}, io.ErrUnexpectedEOF
	}
	answered()
	if password == "secret" {
		return Identity{User: login}, nil
	}
	return Identity{}, &Failure{Kind: BadPassword}
}

func always(string) bool { return true }

func only(name string) func(string) bool { return func(login string) bool { return login == name } }

// A login without a verdict costs the address one guess while the store answers other logins,
// whether the client waits or not, and nothing while it does not.
func TestLoginWithoutVerdict(t *testing.T) {
	tests := []struct {
		name    string
		store   moodyStore
		others  string        // a login that gets an answer during the test
		since   time.Duration // the answer is that old
		counted bool
	}{
		{"slower than the timeout", moodyStore{hangs: only("bob")}, "alice", 0, true},
		{"a lost connection", moodyStore{loses: only("bob")}, "alice", 0, true},
		{"the store hangs for all", moodyStore{hangs: always}, "", 0, false},
		{"the store loses all connections", moodyStore{loses: always}, "", 0, false},
		{"the store answers only this login", moodyStore{hangs: only("bob")}, "BOB", 0, false},
		{"the store has not answered for its timeout", moodyStore{hangs: only("bob")}, "alice", 25 * time.Second, false},
		{"the store was not reached", moodyStore{unreachable: only("bob")}, "alice", 0, false},
	}
	for _, tt := range tests {
		for _, patience := range []time.Duration{time.Hour, 100 * time.Millisecond} {
			t.Run(fmt.Sprint(tt.name, " ", patience), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l, slow := localOf(newTestStore("moody", tt.store))
					s := newTestSession(t)
					if tt.others != "" {
						_ = attempt(t, l, s.peer(99), tt.others, "secret", time.Hour)
						time.Sleep(tt.since)
					}
					err := attempt(t, l, s.peer(1), "bob", "guess", patience)
					time.Sleep(11 * time.Second)
					want := fmt.Sprintf("bob: no verdict (moody), counted %v", tt.counted)
					if got := s.reports(); patience < time.Second {
						if len(got) != 1 || got[0] != want {
							t.Errorf("reported %q, want %s", got, want)
						}
					} else if got := verdictText(Identity{}, err); got != want {
						t.Errorf("got %s, want %s", got, want)
					}
					for i := range 5 { // never more than one guess
						if tt.others != "" && tt.since == 0 {
							go attempt(t, l, s.peer(99), tt.others, "secret", time.Hour)
						}
						_ = attempt(t, l, s.peer(1), "bob", fmt.Sprint("guess ", i), patience)
					}
					time.Sleep(11 * time.Second) // for the last verdict
					if tt.others != "" && tt.since == 0 {
						_ = attempt(t, l, s.peer(99), tt.others, "secret", time.Hour)
					}
					last := attempt(t, l, s.peer(1), "bob", "last", time.Hour)
					wait := waitOf(t, slow, s.peer(1), "carol")
					if counted := wait > 0; counted != tt.counted || wait > 2*time.Second {
						t.Errorf("the next login waits %v after %v", wait, last)
					}
				})
			})
		}
	}
}

// A directory hangs, and a thousand phones hang up and try again: none pays for it.
func TestHangingStoreCostsNoPhoneAnything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, slow := localOf(newTestStore("directory", moodyStore{hangs: always}, withTimeout(10*time.Second, 20)))
		s := newTestSession(t)
		for round := range 3 {
			for i := range 1000 {
				go attempt(t, l, s.peer(i), fmt.Sprint("user", i), "secret", time.Duration(i%30)*time.Second)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			if s.held.Load() != 0 {
				t.Errorf("round %d: %d are held", round, s.held.Load())
			}
		}
		for i := range 1000 {
			if wait := waitOf(t, slow, s.peer(i), "new"); wait != 0 {
				t.Fatalf("phone %d waits %v", i, wait)
			}
		}
	})
}

// A place at the store that is not free is no missing answer, although the store answers.
func TestBusyStoreCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, slow := localOf(newTestStore("busy", moodyStore{hangs: only("bob")}, withTimeout(3*time.Second, 1)))
		s := newTestSession(t)
		_ = attempt(t, l, s.peer(99), "alice", "secret", time.Hour)
		go attempt(t, l, s.peer(1), "bob", "guess", time.Hour)
		synctest.Wait()
		err := attempt(t, l, s.peer(2), "carol", "secret", 2*time.Second)
		if asFailure(err) != nil {
			t.Error(err)
		}
		if wait := waitOf(t, slow, s.peer(2), "carol"); wait != 0 {
			t.Errorf("carol waits %v", wait)
		}
	})
}

// Without the context of a call, Asking does nothing.
func TestAskingOutsideOfACall(t *testing.T) {
	Asking(context.Background())()
	c := NewCalls(time.Second, 1)
	err := c.Do(t.Context(), tlsPeer(), "alice", func(ctx context.Context) error {
		Asking(ctx)
		return io.EOF
	})
	if u, ok := errors.AsType[*Unavailable](err); ok && u.Unanswered {
		t.Errorf("without another login: %v", err)
	}
}
