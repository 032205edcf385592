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

// The file is looked at when somebody logs in, at most once a second. Events
// from the kernel would be quicker and miss more: file systems over the network
// have none, and a symbolic link on the way to the file can be exchanged where
// nobody watches.
const (
	lookEvery = time.Second

	// A file that is written in place may be half written: htpasswd empties it
	// first. So it is read when it has been left alone for as long as quiet, but
	// after patience in any case. One that is renamed over the old one is
	// complete, and read at once.
	quiet    = time.Second
	patience = 10 * time.Second

	// Two changes within the time that a file system tells apart look like one. So
	// a file that had just been changed when it was read is read once more.
	granularity = 2 * time.Second
)

// A sighting is what was seen of the file at the last look.
type sighting struct {
	looked  time.Time
	stamp   stamp // of the content in use
	settled bool  // the stamp tells this content from any later one
	sum     [sha256.Size]byte
	waiting time.Time // since when a change in place waits to be read
}

// A stamp changes when the file does.
type stamp struct {
	device, inode  uint64
	size           int64
	mtime, changed time.Time
}

func (s stamp) sameFile(other stamp) bool {
	return s.device == other.device && s.inode == other.inode
}

// Reload reads the file now. Without it a change is noticed at the next login,
// at most once a second. If the file cannot be read, there are no users until it
// can.
func (s *Store) Reload(context.Context) error {
	s.watch.Lock()
	defer s.watch.Unlock()
	s.read(s.now())
	return s.content.Load().err
}

// users returns the current table. One login looks at the file; others that come
// meanwhile are answered from what is there.
func (s *Store) users() (*table, error) {
	if s.watch.TryLock() {
		s.look(s.now())
		s.watch.Unlock()
	}
	c := s.content.Load()
	return c.table, c.err
}

func (s *Store) look(now time.Time) {
	if since := now.Sub(s.seen.looked); since >= 0 && since < lookEvery {
		return
	}
	s.seen.looked = now
	current, err := stampOf(s.path)
	if err != nil {
		s.seen.stamp = stamp{}
		s.lost(err)
		return
	}
	if current == s.seen.stamp && s.seen.settled || s.halfWritten(current, now) {
		return
	}
	s.read(now)
}

// halfWritten reports whether somebody may be writing the file in place.
func (s *Store) halfWritten(current stamp, now time.Time) bool {
	age := now.Sub(current.changed)
	if !current.sameFile(s.seen.stamp) || current == s.seen.stamp || age < 0 || age >= quiet {
		s.seen.waiting = time.Time{}
		return false
	}
	if s.seen.waiting.IsZero() {
		s.seen.waiting = now
	}
	return now.Sub(s.seen.waiting) < patience
}

// read takes the file in.
func (s *Store) read(now time.Time) {
	text, current, err := readFile(s.path)
	if err != nil {
		s.seen.stamp = stamp{}
		s.lost(err)
		return
	}
	sum := sha256.Sum256(text)
	same := sum == s.seen.sum && s.content.Load().table != nil
	s.seen = sighting{looked: now, stamp: current, sum: sum}
	s.seen.settled = now.Sub(current.changed) > granularity
	if !same {
		s.take(text)
	}
}

// take replaces the table.
func (s *Store) take(text []byte) {
	users, skipped, err := parse(text)
	if err != nil {
		s.lost(fmt.Errorf("user file %s: %w", s.path, err))
		return
	}
	s.content.Store(&content{table: users})
	s.report(users, skipped)
}

// lost means that nobody can tell who is a user. It is logged once, until the
// reason is another one.
func (s *Store) lost(err error) {
	before := s.content.Load()
	s.content.Store(&content{err: err})
	if before.table != nil || before.err != nil && before.err.Error() != err.Error() {
		s.events.UserFileUnreadable(s.path, err)
	}
}

// maxReported is how many lines of a file are complained about one by one.
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

// errNotRegular says what to do about a path that is no file.
var errNotRegular = errors.New("is not a regular file; name a file with a line user:hash for each user")

// readFile reads the whole file, and its stamp as it was before.
func readFile(path string) ([]byte, stamp, error) {
	// Without O_NONBLOCK a named pipe would be waited for.
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

func stampOf(path string) (stamp, error) {
	var raw unix.Stat_t
	if err := unix.Stat(path, &raw); err != nil {
		return stamp{}, explain(path, &fs.PathError{Op: "stat", Path: path, Err: err})
	}
	return newStamp(&raw), nil
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

// explain adds what to do.
func explain(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("user file %s does not exist; make it with: postern passwd %s NAME: %w", path, path, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("user file %s may not be read by uid %d; give its group the right (chmod 640, chgrp): %w", path, os.Geteuid(), err)
	}
	return fmt.Errorf("user file %s: %w", path, err)
}
