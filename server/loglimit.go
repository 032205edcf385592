package server

import (
	"container/list"
	"net/netip"
	"sync"
	"time"

	"postern/internal/netprefix"
)

const (
	// lineEvery is the time from one line of an address to the next.
	lineEvery = time.Minute

	// limitedAddresses is the number of addresses tracked; further ones share one
	// entry.
	limitedAddresses = 4096
)

// A logLimit keeps clients from filling the log with events that cost them nothing. The
// first event of an address is logged at once; the following ones are counted, and
// logged together once a minute. Each event is counted in one line. The line of the
// last ones is written when their minute is over and the next call is made.
//
// It is for lines that only people read. "auth failed" is not among them, as fail2ban
// counts it. A nil logLimit limits nothing. Its methods may be called by any goroutine.
type logLimit struct {
	mu    sync.Mutex
	known map[limitedLine]*list.Element
	order list.List // of *limited; the oldest line is in front
}

type limitedLine struct {
	event string
	from  netip.Prefix // zero: all addresses beyond limitedAddresses
}

type limited struct {
	limitedLine
	logged time.Time       // the last line
	since  int             // events that no line has counted
	line   func(count int) // of the last of them
}

func newLogLimit() *logLimit { return &logLimit{known: make(map[limitedLine]*list.Element)} }

// log calls line now, or later for this event and others.
func (l *logLimit) log(event string, client netip.Addr, line func(count int)) {
	if l == nil {
		line(1)
		return
	}
	l.sweep()
	if l.first(limitedLine{event, netprefix.Client(client)}, line) {
		line(1)
	}
}

// sweep writes the lines that are due.
func (l *logLimit) sweep() {
	if l == nil {
		return
	}
	for _, due := range l.due(time.Now()) {
		due()
	}
}

// first reports whether the event is to be logged now, and counts it otherwise.
func (l *logLimit) first(key limitedLine, line func(count int)) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.known[key]
	if !ok && len(l.known) >= limitedAddresses {
		key.from = netip.Prefix{}
		e, ok = l.known[key]
	}
	if !ok {
		l.known[key] = l.order.PushBack(&limited{limitedLine: key, logged: time.Now()})
		return true
	}
	waiting := e.Value.(*limited)
	waiting.since++
	waiting.line = line
	return false
}

// due returns the lines whose minute is over. An address without further events is
// forgotten.
func (l *logLimit) due(now time.Time) (lines []func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for e := l.order.Front(); e != nil; e = l.order.Front() {
		over := e.Value.(*limited)
		if now.Sub(over.logged) < lineEvery {
			break
		}
		if over.since == 0 {
			l.order.Remove(e)
			delete(l.known, over.limitedLine)
			continue
		}
		count, line := over.since, over.line
		lines = append(lines, func() { line(count) })
		over.logged, over.since, over.line = now, 0, nil
		l.order.MoveToBack(e)
	}
	return lines
}
