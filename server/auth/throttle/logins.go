package throttle

import (
	"context"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"
)

// guessRate bounds the wrong guesses for one login from unknown networks: at most 160 in
// any hour, however many addresses guess. With the 40 of userMistakes, that is 200.
//
// guessReserve is how many guesses an attempt leaves to others, by the number of failures of
// its network within the last hour. So an owner at a new network finds at least 65, although
// networks with failures use up all that they may. 2,000 addresses that guess for 50 users,
// each once in an hour, use up 40.
var (
	guessRate    = rate{most: 100, perHour: 60}
	guessReserve = [...]float64{0, 65, 80, 90}
)

// loginCounted is the number of counts. A login has the one that its id selects, and may
// share it with others, which makes the count of each higher, never lower: an attacker who
// guesses for many logins, existing or not, cannot displace a count. All counts together
// use 2 MiB. With 1,000 accounts under attack, one further login in 65 shares a count.
const loginCounted = 1 << 16

// loginCounts counts the wrong guesses for each login. Logins that do not exist are counted
// like others, so the delay does not reveal which exist. Above the rate, attempts wait, and
// no attempt is refused, otherwise an attacker who knows a login could lock its owner out.
type loginCounts struct {
	counts [loginCounted]budget
	queues map[uint16]*loginQueue // of logins for which attempts wait
}

// A loginQueue has the attempts that wait for one count. Its timer ends when the first may
// be admitted.
type loginQueue struct {
	waiting []*loginTurn // in order of arrival
	timer   *time.Timer
}

// A loginTurn is a guess that an attempt has reserved, or waits for.
type loginTurn struct {
	index    uint16 // of the count
	prefix   netip.Prefix
	network  *network      // of prefix
	admitted chan struct{} // closed when the guess is reserved
}

func newLoginCounts() *loginCounts { return &loginCounts{queues: make(map[uint16]*loginQueue)} }

// countOf returns the index of the count of a login.
func (t *Throttle) countOf(login string) uint16 {
	if t.account != nil {
		login = t.account(login)
	}
	n := t.id("count", t.users, Fold(login))
	return binary.BigEndian.Uint16(n[:])
}

// awaitLogin reserves a guess for the login, and waits while there is none. A network from
// which the login has succeeded has its own count of mistakes instead.
func (a *Attempt) awaitLogin(ctx context.Context) error {
	if a.nearby || a.login == "" {
		return nil
	}
	turn := a.throttle.enqueueLogin(a)
	select {
	case <-turn.admitted:
		return nil
	case <-ctx.Done():
		return late(ctx, ErrLoginBusy, context.Cause(ctx))
	}
}

func (t *Throttle) enqueueLogin(a *Attempt) *loginTurn {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	turn := &loginTurn{index: t.countOf(a.login), prefix: a.network, admitted: make(chan struct{})}
	turn.network = t.networks.activate(a.network, now)
	turn.network.users++
	a.guess = turn
	q := t.logins.queues[turn.index]
	if q == nil {
		q = new(loginQueue)
		t.logins.queues[turn.index] = q
	}
	q.waiting = append(q.waiting, turn)
	t.admitLogins(turn.index, now)
	return turn
}

// admitLogins admits the attempts that may be verified now.
func (t *Throttle) admitLogins(index uint16, now time.Time) {
	q := t.logins.queues[index]
	if q == nil {
		return
	}
	count := &t.logins.counts[index]
	for len(q.waiting) > 0 {
		if left := count.left(now, guessRate); left < 1 { // not enough for any network
			t.admitLater(index, q, 1-left)
			return
		}
		i := first(q.waiting, now)
		turn := q.waiting[i]
		missing := guessReserve[turn.network.class()] + 1 - count.left(now, guessRate)
		if missing > 0 {
			t.admitLater(index, q, missing)
			return
		}
		count.used++
		turn.network.admitted++
		close(turn.admitted)
		q.waiting = slices.Delete(q.waiting, i, i+1)
	}
	t.logins.forget(index, q)
}

// forget removes a queue without attempts.
func (l *loginCounts) forget(index uint16, q *loginQueue) {
	if q.timer != nil {
		q.timer.Stop()
	}
	delete(l.queues, index)
}

// admitLater calls admitLogins when so many guesses have come back.
func (t *Throttle) admitLater(index uint16, q *loginQueue, missing float64) {
	wait := time.Duration(missing/guessRate.perHour*float64(time.Hour)) + time.Millisecond
	if q.timer != nil {
		q.timer.Reset(wait)
		return
	}
	q.timer = time.AfterFunc(wait, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.admitLogins(index, time.Now())
	})
}

// first returns the index of the turn that is next: of the networks with the fewest
// failures, of those the one whose last failure is the longest ago, of its attempts the
// first. So turns go round by network, and an owner waits for networks, not for guesses.
func first(waiting []*loginTurn, now time.Time) int {
	best := 0
	for i, turn := range waiting {
		n, b := turn.network, waiting[best].network
		n.expire(now)
		if n.class() < b.class() || n.class() == b.class() && n.last.Before(b.last) {
			best = i
		}
	}
	return best
}

// class returns the index into guessReserve. An attempt that has been admitted counts like
// a failure until its end, otherwise many at once would all be the first of their network.
func (n *network) class() int { return min(n.failures+n.admitted, len(guessReserve)-1) }

// leaveLogin removes the attempt from the queue of its login, or gives the guess back.
func (t *Throttle) leaveLogin(turn *loginTurn, now time.Time) {
	if q := t.logins.queues[turn.index]; q != nil {
		if i := slices.Index(q.waiting, turn); i >= 0 {
			q.waiting = slices.Delete(q.waiting, i, i+1)
			turn.network.users--
			t.networks.deactivate(turn.prefix, turn.network)
			if len(q.waiting) == 0 {
				t.logins.forget(turn.index, q)
			}
			return
		}
	}
	t.logins.counts[turn.index].giveBack(now, guessRate)
	t.endLogin(turn, now)
}

// useGuess uses up the guess that the attempt has reserved, or another one if it has been
// verified without.
func (t *Throttle) useGuess(a *Attempt, now time.Time) {
	if a.guess == nil {
		t.logins.counts[t.countOf(a.login)].take(now, guessRate)
		return
	}
	t.endLogin(a.guess, now)
	a.guess = nil
}

// endLogin ends an admitted turn.
func (t *Throttle) endLogin(turn *loginTurn, now time.Time) {
	turn.network.admitted--
	turn.network.users--
	t.networks.deactivate(turn.prefix, turn.network)
	t.admitLogins(turn.index, now)
}
