package server

import (
	"container/list"
	"net/netip"
	"sync"
	"time"
)

const (
	// sayEvery is how long one address has to wait for its next line.
	sayEvery = time.Minute

	// limitedAddresses is of how many addresses it is known that they have had
	// one. All others share a line then.
	limitedAddresses = 4096
)

// A logLimit keeps those who get nowhere from filling the log: an attempt
// costs them nothing. The first one is said at once; the following ones of the
// same address are counted, and said together once a minute. Every event is
// counted by one line. The line of the last ones comes when their minute is over and
// anything is said or swept.
//
// It is for lines that nobody but people read. "auth failed" is not among them:
// fail2ban counts it. A nil logLimit limits nothing. Its methods may be called by
// any goroutine.
type logLimit struct {
	mu    sync.Mutex
	known map[limitedLine]*list.Element
	order list.List // of *limited; who was said first is in front
}

type limitedLine struct {
	event string
	from  netip.Prefix // zero: all for whom there is no room
}

type limited struct {
	limitedLine
	said  time.Time
	since int             // events that no line has counted
	line  func(count int) // of the last of them
}

func newLogLimit() *logLimit { return &logLimit{known: make(map[limitedLine]*list.Element)} }

// say calls line now, or later for this event and others.
func (l *logLimit) say(event string, client netip.Addr, line func(count int)) {
	if l == nil {
		line(1)
		return
	}
	l.sweep()
	if l.first(limitedLine{event, clientPrefix(client)}, line) {
		line(1)
	}
}

// sweep says what has waited for long enough.
func (l *logLimit) sweep() {
	if l == nil {
		return
	}
	for _, due := range l.due(time.Now()) {
		due()
	}
}

// first reports whether the event is to be said now, and counts it otherwise.
func (l *logLimit) first(key limitedLine, line func(count int)) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.known[key]
	if !ok && len(l.known) >= limitedAddresses {
		key.from = netip.Prefix{}
		e, ok = l.known[key]
	}
	if !ok {
		l.known[key] = l.order.PushBack(&limited{limitedLine: key, said: time.Now()})
		return true
	}
	waiting := e.Value.(*limited)
	waiting.since++
	waiting.line = line
	return false
}

// due are the lines whose minute is over. An address of which there is nothing to
// say is forgotten.
func (l *logLimit) due(now time.Time) (lines []func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for e := l.order.Front(); e != nil; e = l.order.Front() {
		over := e.Value.(*limited)
		if now.Sub(over.said) < sayEvery {
			break
		}
		if over.since == 0 {
			l.order.Remove(e)
			delete(l.known, over.limitedLine)
			continue
		}
		count, line := over.since, over.line
		lines = append(lines, func() { line(count) })
		over.said, over.since, over.line = now, 0, nil
		l.order.MoveToBack(e)
	}
	return lines
}
