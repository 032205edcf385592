package spool

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
)

// An entry is what is known of a queued message without opening its file.
type entry struct {
	id       string
	user     string // one after the other, in the order of arrival
	size     int64  // of the file
	arrived  time.Time
	mtime    time.Time // of the file, as last seen: a change is somebody's wish
	due      time.Time
	alarm    bool  // a notice of delay is wanted and not sent
	busy     bool  // being delivered
	silences int   // attempts that found no hop
	done     []int // recipients whose end could not be noted in the file
}

func newEntry(id string, size int64, mtime time.Time, c *content) *entry {
	e := &entry{id: id, size: size, mtime: mtime, due: soon(mtime), arrived: c.Arrived, user: c.Envelope.Login}
	if e.user == "" {
		e.user = "\x00" + c.Envelope.Remote
	}
	e.alarm = !c.delayed && c.wantsDelay()
	return e
}

func (h *header) wantsDelay() bool {
	return slices.ContainsFunc(h.To, func(r recipient) bool { return r.wants(smtp.DSNNotifyDelayed) })
}

// A ledger knows all queued messages, and how much room they take. It may be
// used by many goroutines at once; entries are changed by the dispatcher, and
// by the delivery that has made them busy.
type ledger struct {
	mu       sync.Mutex
	order    []*entry // by id, which is by arrival
	byID     map[string]*entry
	users    map[string]bool // those with a delivery under way
	bytes    int64           // of order
	files    int             // reserved for messages that are being written
	reserved int64           // likewise

	maxFiles int
	maxBytes int64
}

func newLedger() *ledger { return &ledger{byID: map[string]*entry{}, users: map[string]bool{}} }

func (l *ledger) limit(files int, bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.maxFiles, l.maxBytes = files, bytes
}

// reserve keeps room for one more message, which settle gives back.
func (l *ledger) reserve(size int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.fits(size) {
		return false
	}
	l.files++
	l.reserved += size
	return true
}

func (l *ledger) settle(size int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.files--
	l.reserved -= size
}

// room says whether a message of this size would be taken now.
func (l *ledger) room(size int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fits(size)
}

func (l *ledger) fits(size int64) bool {
	return len(l.order)+l.files < l.maxFiles && l.bytes+l.reserved+size <= l.maxBytes
}

func (l *ledger) find(id string) *entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.byID[id]
}

// add takes an entry in, unless it is there already.
func (l *ledger) add(e *entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byID[e.id] != nil {
		return
	}
	i, _ := slices.BinarySearchFunc(l.order, e.id, compareID)
	l.order = slices.Insert(l.order, i, e)
	l.byID[e.id] = e
	l.bytes += e.size
}

func compareID(e *entry, id string) int { return strings.Compare(e.id, id) }

// forget takes an entry out.
func (l *ledger) forget(e *entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byID[e.id] != e {
		return
	}
	if e.busy {
		delete(l.users, e.user)
	}
	i, _ := slices.BinarySearchFunc(l.order, e.id, compareID)
	l.order = slices.Delete(l.order, i, i+1)
	delete(l.byID, e.id)
	l.bytes -= e.size
}

// all is every entry that nobody works on.
func (l *ledger) all() []*entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(l.order), func(e *entry) bool { return e.busy })
}

// next makes the oldest message that is due busy, of a user with none under
// way. Where there is none, it says when to ask again.
func (l *ledger) next(now time.Time) (e *entry, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	wait = time.Hour
	for _, e := range l.order {
		switch left := e.due.Sub(now); {
		case e.busy || l.users[e.user]:
		case left > 0:
			wait = min(wait, left)
		default:
			e.busy, l.users[e.user] = true, true
			return e, 0
		}
	}
	return nil, wait
}

// release ends what next began. due is when the message is to be tried again.
func (l *ledger) release(e *entry, mtime, due time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.busy, e.mtime, e.due = false, mtime, due
	delete(l.users, e.user)
}

// seen compares an entry with the time of its file. A change is the wish of
// somebody outside, who wants the message tried at that time.
func (l *ledger) seen(e *entry, mtime time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.busy || e.mtime.Equal(mtime) {
		return
	}
	e.mtime, e.due = mtime, soon(mtime)
}

// claim makes the oldest message for which want is true busy, of a user with
// none under way; nil if there is none.
func (l *ledger) claim(want func(*entry) bool) *entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.order {
		if !e.busy && !l.users[e.user] && want(e) {
			e.busy, l.users[e.user] = true, true
			return e
		}
	}
	return nil
}
