package spool

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"postern/internal/durable"
)

// The folders of a spool.
const (
	incoming = "tmp"   // being written; no client has got 250 for these
	queued   = "queue" // to be delivered
	held     = "hold"  // not tried until it is released
	broken   = "bad"   // damaged
)

// A folder changes the files of a spool, in the order that keeps a message complete
// whenever the machine stops.
type folder struct {
	dir string

	// at, if it is not nil, is called by tests before each step that changes something,
	// with the name of the step, and may return the error of the step.
	at func(step string) error
}

func (f *folder) path(parts ...string) string {
	return filepath.Join(append([]string{f.dir}, parts...)...)
}

func (f *folder) step(name string, do func() error) error {
	if f.at != nil {
		if err := f.at(name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return do()
}

// lock makes sure that only this process delivers from the spool. The kernel releases the
// lock when the process ends.
func (f *folder) lock() (*os.File, error) {
	file, err := os.OpenFile(f.path("lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("another process uses the spool %s: end it, or set another folder in relay.spool", f.dir)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// prepare makes the folders that are missing, and removes files that were never finished:
// their clients have not got 250.
func (f *folder) prepare() error {
	for _, sub := range []string{"", incoming, queued, held, broken} {
		if err := os.MkdirAll(f.path(sub), 0o700); err != nil {
			return err
		}
	}
	left, err := os.ReadDir(f.path(incoming))
	if err != nil {
		return err
	}
	for _, e := range left {
		if err := os.Remove(f.path(incoming, e.Name())); err != nil {
			return err
		}
	}
	return f.syncDir("")
}

// put writes a file completely and durably, or not at all.
func (f *folder) put(id string, h *header, message io.Reader) (size int64, err error) {
	name := f.path(incoming, id)
	defer func() {
		if err != nil {
			_ = os.Remove(name)               // which may not exist
			_ = os.Remove(f.path(queued, id)) // since the client gets an error
		}
	}()
	if size, err = f.write(name, h, message); err != nil {
		return 0, err
	}
	err = f.step("rename", func() error { return os.Rename(name, f.path(queued, id)) })
	if err != nil {
		return 0, err
	}
	return size, f.step("sync folder", func() error { return f.syncDir(queued) })
}

// write writes the file name and returns its size.
func (f *folder) write(name string, h *header, message io.Reader) (size int64, err error) {
	var file *os.File
	err = f.step("create", func() error {
		file, err = os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		return err
	})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	err = f.step("write", func() error {
		size, err = encode(file, h, message)
		return err
	})
	if err != nil {
		return 0, err
	}
	return size, f.step("sync file", file.Sync)
}

// encode writes header, message and checksum.
func encode(to io.Writer, h *header, message io.Reader) (int64, error) {
	text, err := encodeHeader(h)
	if err != nil {
		return 0, err
	}
	if _, err := to.Write(text); err != nil {
		return 0, err
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(to, sum), message)
	if err != nil {
		return 0, err
	}
	if n != h.Size {
		return 0, fmt.Errorf("the message has %d bytes instead of %d", n, h.Size)
	}
	_, err = io.WriteString(to, hex.EncodeToString(sum.Sum(nil))+"\n")
	return int64(len(text)) + n + sumLine, err
}

// append appends a record to the journal of a file, at the end that parse has found.
func (f *folder) append(file *os.File, c *content, r *record) error {
	line, err := encodeRecord(r)
	if err != nil {
		return err
	}
	if c.journal+int64(len(line)) > c.start+c.Size+sumLine+maxJournal {
		return errors.New("the journal is full")
	}
	err = f.step("append", func() error {
		if err := file.Truncate(c.journal); err != nil { // an incomplete record of a crash
			return err
		}
		_, err := file.WriteAt(line, c.journal)
		return err
	})
	if err != nil {
		return err
	}
	c.journal += int64(len(line))
	return f.step("sync journal", file.Sync)
}

// remove removes a delivered message, even if a command has put it on hold in the same
// moment.
func (f *folder) remove(id string) error {
	for _, sub := range []string{queued, held, queued} {
		err := f.step("remove", func() error { return os.Remove(f.path(sub, id)) })
		if err == nil {
			return f.step("sync removal", func() error { return f.syncDir(sub) })
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// move moves a file from one folder to another.
func (f *folder) move(id, from, to string) error {
	if err := os.Rename(f.path(from, id), f.path(to, id)); err != nil {
		return err
	}
	return errors.Join(f.syncDir(to), f.syncDir(from))
}

// postpone sets the file's time to when it is due, and returns the time as the file system
// stores it. It is not synced: if it is lost, the message is only tried earlier.
func (f *folder) postpone(id string, until time.Time) (time.Time, error) {
	name := f.path(queued, id)
	if err := os.Chtimes(name, time.Time{}, until); err != nil {
		return time.Time{}, err
	}
	info, err := os.Stat(name)
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

// open opens a queued message for reading and for records, and parses it.
func (f *folder) open(id string) (*os.File, *content, error) {
	name := f.path(queued, id)
	if info, err := os.Lstat(name); err == nil && !info.Mode().IsRegular() {
		return nil, nil, damaged("it is not a regular file")
	}
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, nil, err
	}
	c, err := parseFile(file)
	if err != nil {
		return nil, nil, errors.Join(err, file.Close())
	}
	return file, c, nil
}

func parseFile(file *os.File) (*content, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, damaged("it is not a regular file")
	}
	return parse(file, info.Size())
}

func (f *folder) syncDir(sub string) error { return durable.SyncFolder(f.path(sub)) }
