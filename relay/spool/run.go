package spool

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"sync"
	"time"
)

// A pace contains the intervals and bounds of the deliveries. Tests have another one.
type pace struct {
	workers         int           // deliveries at the same time; the other connections of the pool are for clients
	scanInterval    time.Duration // between two scans of the folder
	firstRetry      time.Duration // after the first failure of a message; doubles
	retryMax        time.Duration // between two attempts, at most
	hopDownPause    time.Duration // between two attempts while no hop replies, and for the message that found out; doubles
	hopDownPauseMax time.Duration // of all messages
	hopDownMax      time.Duration // of one message that found that no hop replies
	delayWarning    time.Duration // age at which a delay is reported
	callTimeout     time.Duration // of one call of a relay.Transaction
	closeTime       time.Duration // that Close leaves to deliveries that are running
}

func defaultPace() pace {
	return pace{
		workers:         5,
		scanInterval:    5 * time.Second,
		firstRetry:      time.Minute,
		retryMax:        time.Hour,
		hopDownPause:    time.Second,
		hopDownPauseMax: time.Minute,
		hopDownMax:      time.Minute,
		delayWarning:    4 * time.Hour,
		callTimeout:     3 * time.Minute,
		closeTime:       5 * time.Second,
	}
}

// doubled returns wait, doubled several times up to most, with jitter.
func doubled(wait time.Duration, times int, most time.Duration) time.Duration {
	for range times {
		if wait = 2 * wait; wait >= most {
			return jitter(most)
		}
	}
	return jitter(wait)
}

// jitter returns d plus or minus a quarter, so that messages that failed together are not
// tried together again.
func jitter(d time.Duration) time.Duration { return d*3/4 + rand.N(d/2+1) }

// run delivers until ctx ends, and then waits for the deliveries that are running.
func (s *Spool) run(ctx context.Context) {
	defer close(s.done)
	working, abort := context.WithCancel(context.Background())
	defer abort()
	slots := make(chan struct{}, s.pace.workers)
	scanned := time.Now()
	for ctx.Err() == nil {
		if time.Since(scanned) >= s.pace.scanInterval {
			if err := s.scan(); err != nil {
				s.events.DiskError(ReadFolder, "", err)
			}
			scanned = time.Now()
		}
		timer := time.NewTimer(max(0, min(s.start(working, slots), s.pace.scanInterval)))
		select {
		case <-timer.C:
		case <-s.wake:
		case <-ctx.Done():
		}
		timer.Stop()
	}
	timer := time.AfterFunc(s.pace.closeTime, abort)
	defer timer.Stop()
	s.working.Wait()
}

// start starts as many deliveries as are allowed, and returns when to call it again.
func (s *Spool) start(working context.Context, slots chan struct{}) time.Duration {
	for len(slots) < cap(slots) {
		waits := map[string]time.Duration{} // by listener
		e, wait := s.index.next(time.Now(), func(e *entry) time.Duration {
			if _, known := waits[e.listener]; !known {
				waits[e.listener] = s.outageOf(e.listener).wait()
			}
			return waits[e.listener]
		})
		if e == nil {
			return wait
		}
		slots <- struct{}{}
		o := s.outageOf(e.listener)
		o.count(+1)
		s.working.Go(func() {
			s.deliver(working, e, o)
			o.count(-1)
			<-slots
			s.wakeUp()
		})
	}
	return time.Hour // the end of a delivery wakes run
}

// scan updates the index from the folder: commands may have held, released or removed
// files, or set their time.
func (s *Spool) scan() error {
	before := s.index.idle()
	files, err := os.ReadDir(s.folder.path(queued))
	if err != nil {
		return err
	}
	there := make(map[string]bool, len(files))
	for _, f := range files {
		if validID(f.Name()) {
			there[f.Name()] = true
			s.scanFile(f)
		}
	}
	for _, e := range before {
		if !there[e.id] {
			s.index.remove(e)
		}
	}
	return nil
}

func (s *Spool) scanFile(f fs.DirEntry) {
	info, err := f.Info()
	if err != nil {
		return // removed meanwhile
	}
	if s.index.update(f.Name(), info.ModTime()) {
		return
	}
	file, c, err := s.folder.open(f.Name())
	switch {
	case err == nil:
		_ = file.Close() // it was only read
		s.index.add(newEntry(f.Name(), info.Size(), info.ModTime(), c))
	case errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, errDamaged):
		s.setAside(f.Name(), err)
	default: // too many open files, a failing disk: it may recover
		s.events.DiskError(ReadMessage, f.Name(), err)
		now := time.Now()
		s.index.add(&entry{id: f.Name(), size: info.Size(), mtime: info.ModTime(), arrived: now, due: now.Add(s.pace.hopDownMax)})
	}
}

// setAside moves a damaged file to the folder bad, for the administrator.
func (s *Spool) setAside(id string, reason error) {
	s.events.Damaged(id, s.folder.path(broken, id), reason)
	if err := s.folder.move(id, queued, broken); err != nil {
		s.events.DiskError(SetAside, id, err)
	}
}

// An outage is the time in which the next hops of some listeners do not reply. Then one
// message of these listeners at a time is tried, and the others wait. Messages to other
// hops do not wait for it.
type outage struct {
	mu      sync.Mutex
	running int // deliveries
	down    bool
	pause   time.Duration
	until   time.Time
}

// outageOf returns the outage of the hops for a listener. A reload may change it.
func (s *Spool) outageOf(listener string) *outage {
	hops := ""
	if s.hopsOf != nil {
		hops = s.hopsOf(listener)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.outages[hops]
	if o == nil {
		o = new(outage)
		s.outages[hops] = o
	}
	return o
}

// count changes the number of deliveries.
func (o *outage) count(by int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.running += by
}

// begin records that no hop replied.
func (o *outage) begin(p *pace, events Events, reason error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	switch {
	case !o.down:
		o.down, o.pause = true, p.hopDownPause
		events.HopDown(reason)
	case now.Before(o.until): // a delivery that began before the outage
		return
	default:
		o.pause = min(2*o.pause, p.hopDownPauseMax)
	}
	o.until = now.Add(jitter(o.pause))
}

// end records that a hop replied.
func (o *outage) end(events Events) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.down {
		o.down = false
		events.HopUp()
	}
}

// wait returns how long no delivery may be started.
func (o *outage) wait() time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case !o.down:
		return 0
	case o.running > 0:
		return time.Hour // until its result is known
	}
	return time.Until(o.until)
}

// lasts reports whether the pause after an attempt is not over.
func (o *outage) lasts() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.down && time.Now().Before(o.until)
}
