package auth

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/internal/semaphore"
)

// replyTime is the time that the server gives each step of an exchange.
const replyTime = 110 * time.Second

// hangs is a store that does not answer before its context ends.
var hangs = verifierFunc(func(ctx context.Context, _ *Peer, _, _ string) (Identity, error) {
	<-ctx.Done()
	return Identity{}, ctx.Err()
})

// slowYes is a store that accepts every login after d, or stops when its context ends.
func slowYes(d time.Duration) verifierFunc {
	return func(ctx context.Context, _ *Peer, login, _ string) (Identity, error) {
		select {
		case <-time.After(d):
			return Identity{User: login}, nil
		case <-ctx.Done():
			return Identity{}, context.Cause(ctx)
		}
	}
}

func withTimeout(d time.Duration, concurrency int) func(*StoreSpec) {
	return func(s *StoreSpec) { s.Config.Timeout, s.Config.Concurrency = d, concurrency }
}

type deadlineTest struct {
	name     string
	chain    func(t *testing.T) Chain
	failures int // logins from the same address that have failed before
	password string
	limit    time.Duration // 0: replyTime
	took     time.Duration // 0: the limit
	want     string
}

func deadlineTests() []deadlineTest {
	return []deadlineTest{
		{"five stores that hang", func(*testing.T) Chain {
			return Chain{
				newTestStore("one", hangs, withTimeout(25*time.Second, 1)), newTestStore("two", hangs, withTimeout(25*time.Second, 1)),
				newTestStore("three", hangs, withTimeout(25*time.Second, 1)), newTestStore("four", hangs, withTimeout(25*time.Second, 1)),
				newTestStore("five", hangs, withTimeout(25*time.Second, 1)),
			}
		}, 0, "secret", 0, 0, "auth: no answer (one): no answer within its timeout of 25s: context deadline exceeded"},
		{"stores that refuse, then one that hangs", func(*testing.T) Chain {
			return Chain{newTestStore("one", answering(NoSuchUser)), newTestStore("two", hangs, withTimeout(25*time.Second, 1))}
		}, 0, "secret", 20 * time.Second, 0, "auth: no answer (two): the time for the reply was over before the store answered: context deadline exceeded"},
		{"the next store cannot be asked any more", func(*testing.T) Chain {
			late := verifierFunc(func(context.Context, *Peer, string, string) (Identity, error) {
				time.Sleep(5 * time.Second) // does not obey its context
				return Identity{}, &Failure{Kind: NoSuchUser}
			})
			return Chain{newTestStore("one", late), newTestStore("two", answering("alice"))}
		}, 0, "secret", 4 * time.Second, 5 * time.Second,
			"auth: no answer (two): the time for the reply was over before this store was asked: context deadline exceeded"},
		{"a store that is busy", func(t *testing.T) Chain {
			s := newTestStore("busy", slowYes(time.Hour), withTimeout(25*time.Second, 1))
			if err := s.calls.slots.Acquire(t.Context(), semaphore.Turn{}); err != nil {
				t.Fatal(err)
			}
			return Chain{s}
		}, 0, "secret", 20 * time.Second, 0,
			"auth: no answer (busy): the time for the reply was over while the login waited for other logins at this store: context deadline exceeded"},
		{"a penalty, then a slow store", func(*testing.T) Chain {
			return Chain{newTestStore("slow", slowYes(20*time.Second), withTimeout(25*time.Second, 1))}
		}, 4, "secret", 30 * time.Second, 0,
			"auth: no answer (slow): the time for the reply was over before the store answered: context deadline exceeded"},
		{"both forms of a password at slow stores", func(*testing.T) Chain {
			slowNo := verifierFunc(func(ctx context.Context, p *Peer, login, password string) (Identity, error) {
				if _, err := slowYes(20*time.Second)(ctx, p, login, password); err != nil {
					return Identity{}, err
				}
				return Identity{}, &Failure{Kind: NoSuchUser}
			})
			return Chain{
				newTestStore("one", slowNo, withTimeout(25*time.Second, 1)), newTestStore("two", slowNo, withTimeout(25*time.Second, 1)),
				newTestStore("three", slowNo, withTimeout(25*time.Second, 1)),
			}
		}, 0, "cafe\u0301", 0, 0, "auth: no answer (three): the time for the reply was over before the store answered: context deadline exceeded"},
	}
}

// The deadline of the step's context is the only total bound of a login. A login that it
// ends gets a temporary error, which names the store and the wait.
func TestDeadlineEndsALogin(t *testing.T) {
	for _, tt := range deadlineTests() {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				slow := newThrottle()
				for i := range tt.failures {
					v := Throttled(slow, answering(BadPassword))
					if _, err := v.VerifyPassword(t.Context(), tlsPeer(), "eve", fmt.Sprint(i)); asFailure(err) == nil {
						t.Fatal(err)
					}
				}
				l := Local{Passwords: Throttled(slow, WithPRECIS(tt.chain(t).Passwords()))}
				if tt.limit == 0 {
					tt.limit = replyTime
				}
				if tt.took == 0 {
					tt.took = tt.limit
				}
				x := start(t, l, tlsPeer(), "PLAIN")
				defer x.Close()
				ctx, cancel := context.WithTimeout(t.Context(), tt.limit)
				defer cancel()
				begun := time.Now()
				_, done, err := x.Next(ctx, []byte("\x00alice\x00"+tt.password))
				if took := time.Since(begun); took != tt.took {
					t.Errorf("took %v, want %v", took, tt.took)
				}
				u, ok := errors.AsType[*Unavailable](err)
				if done || !ok || asFailure(err) != nil || u.Login != "alice" || u.Error() != tt.want {
					t.Errorf("done %v, error %v\nwant %s", done, err, tt.want)
				}
			})
		})
	}
}

// A chain that is slow, but answers in time, is not cut short: there is no second bound.
func TestSlowChainMayUseTheWholeTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Chain{
			newTestStore("one", hangs, withTimeout(25*time.Second, 1)), newTestStore("two", hangs, withTimeout(25*time.Second, 1)),
			newTestStore("three", hangs, withTimeout(25*time.Second, 1)), newTestStore("four", slowYes(20*time.Second), withTimeout(25*time.Second, 1)),
		}
		ctx, cancel := context.WithTimeout(t.Context(), replyTime)
		defer cancel()
		if got := result(c.Passwords().VerifyPassword(ctx, tlsPeer(), "alice", "secret")); got != "yes: alice (four)" {
			t.Errorf("got %s", got)
		}
	})
}

// The waits of one store that the configuration allows fit into the time for the reply.
func TestLongestWaitsFitIntoTheReplyTime(t *testing.T) {
	longest := Defaults()
	longest.PenaltyWait = 24 * time.Hour
	longest.Validate(func(key, why string) {
		if key == "penalty_wait" && !strings.Contains(why, `"1m"`) {
			t.Errorf("%s %s", key, why)
		}
	})
	if total := maxPenaltyWait + 2*maxStoreTimeout; total > replyTime {
		t.Errorf("penalty, other logins and the store's answer may take %v of %v", total, replyTime)
	}
}

func TestDeadlineEndsALookupOfKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Chain{newTestStore("one", hangingKeeper{users()}), newTestStore("two", hangingKeeper{users()})}
		x := start(t, Local{Keys: c.Keys(), Scram: NewScram(newThrottle(), nil)}, tlsPeer(), "SCRAM-SHA-256")
		defer x.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		begun := time.Now()
		_, _, err := x.Next(ctx, []byte("n,,n=Alice,r=abc"))
		if took := time.Since(begun); took != 15*time.Second {
			t.Errorf("took %v", took)
		}
		if u, ok := errors.AsType[*Unavailable](err); !ok || u.Store != "one" || u.Login != "Alice" {
			t.Errorf("got %v", err)
		}
	})
}

func TestContextOfTheStepEndsALookupOfKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := start(t, scramLocal(hangingKeeper{users()}), tlsPeer(), "SCRAM-SHA-256")
		defer x.Close()
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			synctest.Wait()
			cancel()
		}()
		if _, done, err := x.Next(ctx, []byte("n,,n=Alice,r=abc")); done || !errors.Is(err, context.Canceled) {
			t.Errorf("done %v, %v", done, err)
		}
	})
}

type hangingKeeper struct{ *fakeKeeper }

func (hangingKeeper) ScramKeys(ctx context.Context, _ *Peer, _ string) (ScramKeys, error) {
	<-ctx.Done()
	return ScramKeys{}, ctx.Err()
}
