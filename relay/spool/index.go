package spool

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-smtp"

	"postern/internal/share"
)

// An entry is what the index contains about a queued message, so that its file need not
// be opened.
type entry struct {
	id       string
	listener string
	user     string // whose messages are sent one after the other, in the order of arrival
	owner    share.Owner
	size     int64 // of the file
	arrived  time.Time
	mtime    time.Time // of the file, as last seen: if it is another one, a command has set it
	due      time.Time
	busy     bool  // being delivered
	hopDowns int   // attempts that found no hop
	done     []int // recipients that are done, but could not be recorded in the file

	// The sender wants a notice of the delay and has not got it yet.
	delayWarning bool
}

func newEntry(id string, size int64, mtime time.Time, c *content) *entry {
	e := &entry{
		id: id, size: size, mtime: mtime, due: plausible(mtime), arrived: c.Arrived, listener: c.Envelope.Listener,
		user: c.Envelope.Users + "\x00" + c.Envelope.Login, owner: c.owner(),
	}
	if c.Envelope.Login == "" {
		e.user = "\x00\x00" + c.Envelope.Remote
	}
	e.delayWarning = !c.delayed && slices.ContainsFunc(c.To, func(r recipient) bool { return r.wants(smtp.DSNNotifyDelayed) })
	return e
}

// plausible returns t, or the current time if the clock has been set back since t was
// written.
func plausible(t time.Time) time.Time {
	if now := time.Now(); t.Sub(now) > 2*time.Hour {
		return now
	}
	return t
}

// An index has an entry for each queued message, and counts the messages and bytes that each
// owner has in the spool. It may be used by many goroutines at once; entries are changed by
// run, and by the delivery that has made them busy.
type index struct {
	mu    sync.Mutex
	order []*entry // by id, which is by arrival
	byID  map[string]*entry
	users map[string]bool // those with a busy entry

	// What the entries and the messages that are being written hold.
	messages share.Pool
	bytes    share.Pool
}

// add adds an entry, unless there is one with the same id.
func (x *index) add(e *entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.byID[e.id] != nil {
		return
	}
	i, _ := slices.BinarySearchFunc(x.order, e.id, compareID)
	x.order = slices.Insert(x.order, i, e)
	x.byID[e.id] = e
	x.messages.Add(e.owner, 1)
	x.bytes.Add(e.owner, e.size)
}

func compareID(e *entry, id string) int { return strings.Compare(e.id, id) }

// remove removes an entry.
func (x *index) remove(e *entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.byID[e.id] != e {
		return
	}
	if e.busy {
		delete(x.users, e.user)
	}
	i, _ := slices.BinarySearchFunc(x.order, e.id, compareID)
	x.order = slices.Delete(x.order, i, i+1)
	delete(x.byID, e.id)
	x.messages.Give(e.owner, 1)
	x.bytes.Give(e.owner, e.size)
}

// idle returns all entries that are not busy.
func (x *index) idle() []*entry {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(x.order), func(e *entry) bool { return e.busy })
}

// next returns the oldest message that is due, of a user without a busy one, and for which
// pause is zero, and makes it busy. If there is none, it returns when to ask again.
func (x *index) next(now time.Time, pause func(*entry) time.Duration) (e *entry, wait time.Duration) {
	x.mu.Lock()
	defer x.mu.Unlock()
	wait = time.Hour
	for _, e := range x.order {
		switch left := e.due.Sub(now); {
		case e.busy || x.users[e.user]:
		case left > 0:
			wait = min(wait, left)
		default:
			left = pause(e)
			if left <= 0 {
				e.busy, x.users[e.user] = true, true
				return e, 0
			}
			wait = min(wait, left)
		}
	}
	return nil, wait
}

// claim returns the oldest message for which want is true, of a user without a busy one,
// and makes it busy. If there is none, it returns nil.
func (x *index) claim(want func(*entry) bool) *entry {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, e := range x.order {
		if !e.busy && !x.users[e.user] && want(e) {
			e.busy, x.users[e.user] = true, true
			return e
		}
	}
	return nil
}

// release makes an entry of next or claim available again. due is when the message is to
// be tried.
func (x *index) release(e *entry, mtime, due time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e.busy, e.mtime, e.due = false, mtime, due
	delete(x.users, e.user)
}

// update compares the entry with the time of its file, and reports whether there is an
// entry. If a command has set another time, the message is due then.
func (x *index) update(id string, mtime time.Time) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := x.byID[id]
	if e != nil && !e.busy && !e.mtime.Equal(mtime) {
		e.mtime, e.due = mtime, plausible(mtime)
	}
	return e != nil
}
