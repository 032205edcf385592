package userfile

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The file is checked at a login, at most once a second. Notifications of the kernel would be
// faster and less reliable: network file systems have none, and a symbolic link of the path
// can be replaced in a folder that is not watched.
const (
	checkInterval = time.Second

	// A file that is being written in place may be incomplete; htpasswd empties it
	// first. So it is read when it has not changed for quietTime, or after maxWait. A
	// file that was renamed to the path is complete, and is read at once.
	quietTime = time.Second
	maxWait   = 10 * time.Second

	// Two changes within the resolution of the file system's times may have the same
	// stamp. So a file that had just been changed when it was read is read again.
	granularity = 2 * time.Second
)

// A fileState is the state of the file at the last check.
type fileState struct {
	checked time.Time
	stamp   stamp // of the content in use
	settled bool  // every later content has another stamp
	sum     [sha256.Size]byte
	waiting time.Time // since when a change in place waits to be read
}

// A stamp changes when the file does.
type stamp struct {
	device, inode  uint64
	size           int64
	mtime, changed time.Time
}

// Reload reads the file now. Without it a change is noticed at a login, within a second. If
// the file cannot be read, all logins are temporary errors until it can.
func (s *Store) Reload(context.Context) error {
	s.watch.Lock()
	defer s.watch.Unlock()
	s.read(s.now())
	return s.content.Load().err
}

// users returns the current table. One login checks the file, while others use the current
// table.
func (s *Store) users() (*table, error) {
	if s.watch.TryLock() {
		s.refresh(s.now())
		s.watch.Unlock()
	}
	c := s.content.Load()
	return c.table, c.err
}

// refresh reads the file if it has changed.
func (s *Store) refresh(now time.Time) {
	if since := now.Sub(s.state.checked); since >= 0 && since < checkInterval {
		return
	}
	s.state.checked = now
	var raw unix.Stat_t
	if err := unix.Stat(s.path, &raw); err != nil {
		s.state.stamp = stamp{}
		s.fail(explain(s.path, &fs.PathError{Op: "stat", Path: s.path, Err: err}))
		return
	}
	current := newStamp(&raw)
	if current == s.state.stamp && s.state.settled || s.incomplete(current, now) {
		return
	}
	s.read(now)
}

// incomplete reports whether the file may be being written in place.
func (s *Store) incomplete(current stamp, now time.Time) bool {
	age := now.Sub(current.changed)
	known := s.state.stamp
	sameFile := current.device == known.device && current.inode == known.inode
	if !sameFile || current == known || age < 0 || age >= quietTime {
		s.state.waiting = time.Time{}
		return false
	}
	if s.state.waiting.IsZero() {
		s.state.waiting = now
	}
	return now.Sub(s.state.waiting) < maxWait
}

// read reads the file, and replaces the table if the content has changed.
func (s *Store) read(now time.Time) {
	text, current, err := readFile(s.path)
	if err != nil {
		s.state.stamp = stamp{}
		s.fail(err)
		return
	}
	sum := sha256.Sum256(text)
	same := sum == s.state.sum && s.content.Load().table != nil
	s.state = fileState{checked: now, stamp: current, sum: sum}
	s.state.settled = now.Sub(current.changed) > granularity
	if same {
		return
	}
	users, skipped, err := parse(text)
	if err != nil {
		s.fail(fmt.Errorf("user file %s: %w", s.path, err))
		return
	}
	s.content.Store(&content{table: users})
	s.report(users, skipped)
}

// fail removes the table, so that all logins are temporary errors. The event is reported once
// for each different error.
func (s *Store) fail(err error) {
	before := s.content.Load()
	s.content.Store(&content{err: err})
	if before.table != nil || before.err != nil && before.err.Error() != err.Error() {
		s.events.UserFileUnreadable(s.path, err)
	}
}

// maxReported is how many invalid lines are reported one by one.
const maxReported = 20

func (s *Store) report(users *table, skipped problems) {
	for _, p := range skipped[:min(len(skipped), maxReported)] {
		s.events.UserFileLineSkipped(s.path, p.line, p.why)
	}
	if more := len(skipped) - maxReported; more > 0 {
		s.events.UserFileMoreLinesSkipped(s.path, more)
	}
	s.events.UserFileRead(s.path, len(users.hashes))
}

// errNotRegular is the error of a path that is not a regular file.
var errNotRegular = errors.New("is not a regular file; name a file with a line user:hash for each user")

// readFile returns the content of the file, and its stamp from before the read.
func readFile(path string) ([]byte, stamp, error) {
	// Without O_NONBLOCK opening a named pipe would block.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, stamp{}, explain(path, err)
	}
	defer f.Close()
	var raw unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &raw); err != nil {
		return nil, stamp{}, explain(path, err)
	}
	switch {
	case raw.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, stamp{}, fmt.Errorf("user file %s: %w", path, errNotRegular)
	case raw.Size > maxFile:
		return nil, stamp{}, fmt.Errorf("user file %s: larger than %d MiB", path, maxFile>>20)
	}
	var text bytes.Buffer
	text.Grow(int(raw.Size) + bytes.MinRead)
	if _, err := text.ReadFrom(io.LimitReader(f, maxFile)); err != nil {
		return nil, stamp{}, explain(path, err)
	}
	return text.Bytes(), newStamp(&raw), nil
}

func newStamp(raw *unix.Stat_t) stamp {
	return stamp{
		device:  uint64(raw.Dev),
		inode:   uint64(raw.Ino),
		size:    raw.Size,
		mtime:   time.Unix(raw.Mtim.Unix()),
		changed: time.Unix(raw.Ctim.Unix()),
	}
}

// explain adds the next step.
func explain(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("user file %s does not exist; create it with: postern passwd %s NAME: %w", path, path, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("user file %s cannot be read by uid %d; give its group read access (chgrp, chmod 640): %w", path, os.Geteuid(), err)
	}
	return fmt.Errorf("user file %s: %w", path, err)
}
