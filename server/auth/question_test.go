package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"postern/server/auth/throttle"
)

// A testSession has the Background of peers, and records what is reported.
type testSession struct {
	down     context.CancelFunc
	context  context.Context
	held     atomic.Int32
	mu       sync.Mutex
	reported []string
}

func newTestSession(t *testing.T) *testSession {
	s := new(testSession)
	s.context, s.down = context.WithCancel(context.Background())
	t.Cleanup(s.down)
	return s
}

func (s *testSession) peer(i int) *Peer {
	p := peerFrom(i)
	p.Background = &Background{
		Context: s.context,
		Hold: func() func() {
			s.held.Add(1)
			return func() { s.held.Add(-1) }
		},
		Report: func(id Identity, err error) {
			if s.held.Load() < 1 {
				panic("the stores are not held any more")
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			s.reported = append(s.reported, verdictText(id, err))
		},
	}
	return p
}

func (s *testSession) reports() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.reported)
}

// verdictText is a result for comparison, with the login of a refusal.
func verdictText(id Identity, err error) string {
	if f := asFailure(err); f != nil {
		return fmt.Sprintf("%s: %s (%s)", f.Login, f.Kind, f.Store)
	}
	if u, ok := errors.AsType[*Unavailable](err); ok {
		return fmt.Sprintf("%s: no verdict (%s), counted %v", u.Login, u.Store, u.Unanswered)
	}
	if err != nil {
		return err.Error()
	}
	return "yes: " + id.User
}

// slowNo is a store that accepts the password "secret" at once and refuses any other after d,
// like PAM, saslauthd and Dovecot. It counts its calls, and marks them as sent.
func slowNo(d time.Duration, asked *atomic.Int32) verifierFunc {
	return func(ctx context.Context, _ *Peer, login, password string) (Identity, error) {
		asked.Add(1)
		answered := Asking(ctx)
		if password != "secret" {
			select {
			case <-time.After(d):
			case <-ctx.Done():
				return Identity{}, context.Cause(ctx)
			}
			answered()
			return Identity{}, &Failure{Kind: Unknowable}
		}
		answered()
		return Identity{User: login}, nil
	}
}

// attempt runs PLAIN, and hangs up after patience.
func attempt(t *testing.T, l Local, p *Peer, login, password string, patience time.Duration) error {
	t.Helper()
	x, err := l.Start(t.Context(), p, "PLAIN")
	if err != nil {
		t.Error(err)
		return err
	}
	defer x.Close()
	ctx, hangUp := context.WithCancel(t.Context())
	defer hangUp()
	defer time.AfterFunc(patience, hangUp).Stop()
	ctx, cancel := context.WithTimeout(ctx, replyTime)
	defer cancel()
	_, _, err = x.Next(ctx, []byte("\x00"+login+"\x00"+password))
	return err
}

// localOf returns a Local as NewLocal makes it, with its throttle.
func localOf(stores ...*Store) (Local, *throttle.Throttle) {
	slow := newThrottle()
	return NewLocal(Chain(stores), slow, NewScram(slow, nil), Defaults()), slow
}

// waitOf returns how long a login from the address waits for the penalty.
func waitOf(t *testing.T, slow *throttle.Throttle, p *Peer, login string) time.Duration {
	t.Helper()
	begun := time.Now()
	a, err := slow.Acquire(t.Context(), p.Remote.Addr(), login)
	if err != nil {
		t.Fatal(err)
	}
	a.Yield()
	return time.Since(begun)
}

// A guesser that hangs up before the refusal of 2 seconds is examined as often as one that
// waits for it, and each refusal is reported with its login.
func TestHangingUpSavesNoPenalty(t *testing.T) {
	count := func(patience time.Duration) (asked int32, reports []string) {
		synctest.Test(t, func(t *testing.T) {
			var n atomic.Int32
			l, _ := localOf(newTestStore("pam", slowNo(2*time.Second, &n)))
			s := newTestSession(t)
			begun := time.Now()
			for i := 0; time.Since(begun) < 45*time.Second; i++ {
				if err := attempt(t, l, s.peer(1), "alice", fmt.Sprint("guess ", i), patience); err == nil {
					t.Fatal("a guess was right")
				}
			}
			asked = n.Load()
			time.Sleep(time.Minute)
			reports = s.reports()
			if s.held.Load() != 0 {
				t.Errorf("%d are still held", s.held.Load())
			}
		})
		return asked, reports
	}
	patient, none := count(time.Hour)
	hasty, reports := count(100 * time.Millisecond)
	if len(none) != 0 || patient > 6 {
		t.Errorf("a client that waits: %d guesses examined, %d reported", patient, len(none))
	}
	// Before the first refusal there are as many at once as for a client with several connections.
	if hasty > patient+4 {
		t.Errorf("a client that hangs up: %d guesses examined, one that waits: %d", hasty, patient)
	}
	refused := 0
	for _, r := range reports {
		switch r {
		case "alice: refused (pam)":
			refused++
		case ErrAbandoned.Error():
		default:
			t.Errorf("reported %s", r)
		}
	}
	if refused != int(hasty) {
		t.Errorf("%d guesses, %d refusals reported: %q", hasty, refused, reports)
	}
}

// Next returns at once, and the verdict comes when the store has decided.
func TestVerdictOfAnAbandonedLogin(t *testing.T) {
	accepting := func(d time.Duration) verifierFunc { return slowYes(d) }
	disabled := verifierFunc(func(context.Context, *Peer, string, string) (Identity, error) {
		time.Sleep(2 * time.Second)
		return Identity{}, &Failure{Kind: Disabled}
	})
	var n atomic.Int32
	no, down := slowNo(2*time.Second, &n), verifierFunc(func(context.Context, *Peer, string, string) (Identity, error) {
		time.Sleep(2 * time.Second)
		return Identity{}, errDown
	})
	tests := []struct {
		name     string
		backends []Backend
		password string
		want     string
		at       time.Duration // of the verdict
		penalty  time.Duration // of the next login
	}{
		{"a no", []Backend{no}, "guess", "alice: refused (0)", 2 * time.Second, 2 * time.Second},
		{"a yes", []Backend{accepting(2 * time.Second)}, "secret", "yes: alice", 2 * time.Second, 0},
		{"a right password of a disabled account", []Backend{disabled}, "secret", "alice: account disabled (0)", 2 * time.Second, 0},
		{"a store that is down", []Backend{down}, "guess", "alice: no verdict (0), counted false", 2 * time.Second, 0},
		{"both forms of a password", []Backend{no}, "cafe\u0301", "alice: refused (0)", 4 * time.Second, 2 * time.Second},
		{"two stores", []Backend{no, no}, "guess", "alice: refused (0)", 4 * time.Second, 2 * time.Second},
		{"a yes of the second store", []Backend{no, accepting(3 * time.Second)}, "guess", "yes: alice", 5 * time.Second, 0},
		{"a no of the second store while the first is down", []Backend{down, answering(BadPassword)}, "guess", "alice: no verdict (0), counted false", 2 * time.Second, 2 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var stores []*Store
				for i, b := range tt.backends {
					stores = append(stores, newTestStore(fmt.Sprint(i), b))
				}
				l, slow := localOf(stores...)
				s := newTestSession(t)
				begun := time.Now()
				err := attempt(t, l, s.peer(1), "alice", tt.password, 100*time.Millisecond)
				if !errors.Is(err, ErrPending) || time.Since(begun) != 100*time.Millisecond {
					t.Errorf("after %v: %v", time.Since(begun), err)
				}
				time.Sleep(tt.at - time.Since(begun) - time.Millisecond)
				synctest.Wait()
				if got := s.reports(); len(got) != 0 || s.held.Load() != 1 {
					t.Errorf("before the verdict: reported %q, %d held", got, s.held.Load())
				}
				time.Sleep(time.Millisecond)
				synctest.Wait()
				if got := s.reports(); !slices.Equal(got, []string{tt.want}) || s.held.Load() != 0 {
					t.Errorf("reported %q, want %q; %d held", got, tt.want, s.held.Load())
				}
				if got := waitOf(t, slow, s.peer(1), "bob"); got != tt.penalty {
					t.Errorf("the next login from the address waits %v, want %v", got, tt.penalty)
				}
			})
		})
	}
}

// A shutdown ends the questions, and does not count.
func TestShutdownEndsAbandonedLogins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int32
		l, slow := localOf(newTestStore("pam", slowNo(20*time.Second, &n), withTimeout(25*time.Second, 4)))
		s := newTestSession(t)
		if err := attempt(t, l, s.peer(1), "alice", "guess", time.Second); !errors.Is(err, ErrPending) {
			t.Error(err)
		}
		s.down()
		synctest.Wait()
		if got := s.reports(); !slices.Equal(got, []string{ErrAbandoned.Error()}) || s.held.Load() != 0 {
			t.Errorf("reported %q, %d held", got, s.held.Load())
		}
		if got := waitOf(t, slow, s.peer(1), "bob"); got != 0 {
			t.Errorf("the next login waits %v", got)
		}
		// A client that is still connected.
		if err := attempt(t, l, s.peer(2), "alice", "guess", time.Hour); !errors.Is(err, ErrAbandoned) {
			t.Errorf("connected: %v", err)
		}
	})
}

// A client that hangs up at the moment of the answer gets it, or it is reported: exactly one
// of both, and it counts once.
func TestHangUpAtTheMomentOfTheAnswer(t *testing.T) {
	slow := newThrottle()
	s := newTestSession(t)
	returned, pending := 0, 0
	for i := range 2000 {
		answer := make(chan struct{})
		v := Throttled(slow, verifierFunc(func(context.Context, *Peer, string, string) (Identity, error) {
			<-answer
			return Identity{}, &Failure{Kind: BadPassword}
		}))
		ctx, hangUp := context.WithCancel(t.Context())
		var both sync.WaitGroup
		both.Go(hangUp)
		both.Go(func() { close(answer) })
		_, err := v.VerifyPassword(ctx, s.peer(i), "alice", "guess")
		both.Wait()
		switch {
		case errors.Is(err, ErrPending):
			pending++
		case asFailure(err) != nil:
			returned++
		case !errors.Is(err, context.Canceled): // before the verification
			t.Fatal(err)
		}
	}
	for len(s.reports()) < pending {
		time.Sleep(time.Millisecond)
	}
	if got := s.reports(); len(got) != pending || returned+pending > 2000 {
		t.Errorf("%d returned, %d pending, %d reported", returned, pending, len(got))
	}
	for s.held.Load() != 0 {
		time.Sleep(time.Millisecond)
	}
}

// A known pair with a wrong password learns it when an unknown one would have. If it hangs up
// before, its guess is a refusal nevertheless.
func TestKnownPairWaitsForItsRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := localOf(newTestStore("users", &fakeStore{users: map[string]string{"alice": "secret"}}))
		s := newTestSession(t)
		if err := attempt(t, l, s.peer(1), "alice", "secret", time.Hour); err != nil {
			t.Fatal(err)
		}
		for i := range 2 { // of other logins, so that the address has a penalty of 4 s
			_ = attempt(t, l, s.peer(1), fmt.Sprint("user", i), "guess", time.Hour)
		}
		begun := time.Now()
		if err := attempt(t, l, s.peer(1), "alice", "secret", time.Hour); err != nil || time.Since(begun) != 0 {
			t.Errorf("the right password: after %v: %v", time.Since(begun), err)
		}
		if err := attempt(t, l, s.peer(1), "alice", "guess", time.Hour); asFailure(err) == nil || time.Since(begun) != 4*time.Second {
			t.Errorf("a wrong password: after %v: %v", time.Since(begun), err)
		}
		err := attempt(t, l, s.peer(1), "alice", "another guess", time.Second)
		if f := asFailure(err); f == nil || f.Login != "alice" {
			t.Errorf("hung up before the refusal: %v", err)
		}
	})
}

// The temporary error of a known pair that has to wait too long still names the refusal.
func TestKnownPairWithTooLongAWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, slow := localOf(newTestStore("users", &fakeStore{users: map[string]string{"alice": "secret"}}))
		s := newTestSession(t)
		if err := attempt(t, l, s.peer(1), "alice", "secret", time.Hour); err != nil {
			t.Fatal(err)
		}
		for i := range 5 {
			_ = attempt(t, l, s.peer(1), fmt.Sprint("user", i), "guess", time.Hour)
		}
		for range 3 { // so many waiting logins that a further one is refused
			go func() {
				if a, err := slow.Acquire(t.Context(), s.peer(1).Remote.Addr(), "bob"); err == nil {
					a.Done(throttle.Outcome{Result: throttle.WrongGuess})
				}
			}()
		}
		synctest.Wait()
		err := attempt(t, l, s.peer(1), "alice", "guess", time.Hour)
		u, ok := errors.AsType[*Unavailable](err)
		if !ok || !errors.Is(err, throttle.ErrPenalty) || u.Refused == nil || u.Refused.Kind != BadPassword || u.Login != "alice" {
			t.Errorf("%v", err)
		}
		time.Sleep(time.Hour)
	})
}

// A panic after the client has hung up does not end the process, and is reported.
func TestPanicOfAnAbandonedLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestSession(t)
		slow := newThrottle()
		v := Throttled(slow, verifierFunc(func(context.Context, *Peer, string, string) (Identity, error) {
			time.Sleep(time.Second)
			panic("secret")
		}))
		ctx, hangUp := context.WithCancel(t.Context())
		hangUp()
		p := s.peer(1)
		var reported error
		p.Background.Report = func(_ Identity, err error) { reported = err }
		_, err := v.VerifyPassword(ctx, p, "alice", "secret")
		for errors.Is(err, context.Canceled) { // before the verification
			_, err = v.VerifyPassword(ctx, p, "alice", "secret")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if !errors.Is(err, ErrPending) || reported == nil || s.held.Load() != 0 {
			t.Errorf("%v, reported %v", err, reported)
		}
		if got := waitOf(t, slow, p, "bob"); got != 0 {
			t.Errorf("the next login waits %v", got)
		}
	})
}

// The last step of SCRAM passes through the same place.
func TestScramHoldsTheServices(t *testing.T) {
	s := newTestSession(t)
	local := scramLocal(users())
	held := 0
	p := s.peer(1)
	hold := p.Background.Hold
	p.Background.Hold = func() func() {
		held++
		return hold()
	}
	x := start(t, local, p, "SCRAM-SHA-256")
	defer x.Close()
	c := startRaw(t, x, "n,,", "Alice")
	nonce, _, _ := c.offer()
	if _, _, err := x.Next(t.Context(), []byte(c.final("c=biws,r="+nonce, "wrong"))); asFailure(err) == nil {
		t.Error(err)
	}
	if held != 1 {
		t.Errorf("held %d times", held)
	}
}
