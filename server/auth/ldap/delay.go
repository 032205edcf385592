package ldap

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"postern/internal/ldapclient"
	"postern/server/auth"
)

// imitateBind takes as long as the bind that is not made if a search, which took searched, has
// found no entry, so that the response time does not reveal which users exist. It follows the
// rules of a bind: it waits for a connection like one, opens one if there is none, and fails if
// there is no server or no time left.
func (s *Store) imitateBind(ctx context.Context, a attempt, searched time.Duration) error {
	return s.do(ctx, ldapclient.ForBinds, a, func(*ldapclient.Conn) error {
		timer := time.NewTimer(s.binds.usual(searched))
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
}

// bindTimes has the duration of the last bind of each of the entries that were bound lately. An
// entry counts once, however often it is bound, so an attacker with a few accounts does not
// choose the time of unknown users. The zero value is empty. It may be used by many goroutines
// at once.
type bindTimes struct {
	mu       sync.Mutex
	refused  entryTimes // what is to be imitated
	accepted entryTimes // as long as nothing has been refused
}

// add adds a bind that ended with err. One without an answer does not count.
func (b *bindTimes) add(dn string, took time.Duration, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		b.accepted.add(dn, took)
	} else if _, ok := errors.AsType[*auth.Failure](err); ok {
		b.refused.add(dn, took)
	}
}

// usual returns the median of the refused binds, or of the accepted ones, or otherwise.
func (b *bindTimes) usual(otherwise time.Duration) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.refused.median(b.accepted.median(otherwise))
}

// maxEntries is how many entries an entryTimes knows.
const maxEntries = 101

// An entryTimes has one duration for each entry. A new entry replaces the one that was added
// first.
type entryTimes struct {
	last  map[string]time.Duration // by DN
	order []string                 // the DNs; a ring when there are maxEntries
	next  int                      // the first one of the ring
}

func (e *entryTimes) add(dn string, took time.Duration) {
	dn = strings.ToLower(dn)
	if e.last == nil {
		e.last = make(map[string]time.Duration)
	}
	if _, known := e.last[dn]; !known {
		e.enter(dn)
	}
	e.last[dn] = took
}

// enter makes room for one more entry.
func (e *entryTimes) enter(dn string) {
	if len(e.order) < maxEntries {
		e.order = append(e.order, dn)
		return
	}
	delete(e.last, e.order[e.next])
	e.order[e.next] = dn
	e.next = (e.next + 1) % maxEntries
}

func (e *entryTimes) median(otherwise time.Duration) time.Duration {
	if len(e.order) == 0 {
		return otherwise
	}
	all := make([]time.Duration, 0, maxEntries)
	for _, took := range e.last {
		all = append(all, took)
	}
	slices.Sort(all)
	return all[len(all)/2]
}
