package spool

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"
)

// run delivers until ctx ends, and then waits for what is under way.
func (s *Spool) run(ctx context.Context) {
	defer close(s.done)
	working, cut := context.WithCancel(context.Background())
	defer cut()
	slots := make(chan struct{}, s.pace.workers)
	looked := time.Now()
	for ctx.Err() == nil {
		if time.Since(looked) >= s.pace.look {
			if err := s.look(); err != nil {
				s.events.DiskError(ReadFolder, "", err)
			}
			looked = time.Now()
		}
		s.sleep(ctx, s.start(working, slots))
	}
	hurry := time.AfterFunc(s.pace.grace, cut)
	defer hurry.Stop()
	s.working.Wait()
}

// sleep waits until there is something to do.
func (s *Spool) sleep(ctx context.Context, wait time.Duration) {
	timer := time.NewTimer(max(0, min(wait, s.pace.look)))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.wake:
	case <-ctx.Done():
	}
}

// start begins as many deliveries as may be, and returns when to ask again.
func (s *Spool) start(working context.Context, slots chan struct{}) time.Duration {
	for {
		if wait := s.outage.wait(len(slots)); wait > 0 {
			return wait
		}
		if len(slots) == cap(slots) {
			return time.Hour // whoever ends, wakes us
		}
		e, wait := s.ledger.next(time.Now())
		if e == nil {
			return wait
		}
		slots <- struct{}{}
		s.working.Go(func() {
			s.deliver(working, e)
			<-slots
			s.rouse()
		})
	}
}

// look compares the ledger with the folder, which is the truth: files may have
// been put on hold, released, removed, or marked as due by somebody else.
func (s *Spool) look() error {
	before := s.ledger.all()
	files, err := os.ReadDir(s.folder.path(queued))
	if err != nil {
		return err
	}
	there := make(map[string]bool, len(files))
	for _, f := range files {
		if validID(f.Name()) {
			there[f.Name()] = true
			s.compare(f)
		}
	}
	for _, e := range before {
		if !there[e.id] {
			s.ledger.forget(e)
		}
	}
	return nil
}

func (s *Spool) compare(f fs.DirEntry) {
	info, err := f.Info()
	if err != nil {
		return // gone meanwhile
	}
	if e := s.ledger.find(f.Name()); e != nil {
		s.ledger.seen(e, info.ModTime())
		return
	}
	file, c, err := s.folder.open(f.Name())
	switch {
	case err == nil:
		_ = file.Close() // it was only read
		s.ledger.add(newEntry(f.Name(), info.Size(), info.ModTime(), c))
	case errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, errDamaged):
		s.setAside(f.Name(), err)
	default: // out of file descriptors, a disk that fails: it may get better
		s.events.DiskError(ReadMessage, f.Name(), err)
		now := time.Now()
		s.ledger.add(&entry{id: f.Name(), size: info.Size(), mtime: info.ModTime(), arrived: now, due: now.Add(s.pace.silence)})
	}
}

// setAside takes a damaged file out of the way, for somebody to look at.
func (s *Spool) setAside(id string, reason error) {
	s.events.Damaged(id, s.folder.path(broken, id), reason)
	if err := s.folder.move(id, queued, broken); err != nil {
		s.events.DiskError(SetAside, id, err)
	}
}
