package userfile

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A file that is mounted by itself, as one in a container often is, cannot be replaced: rename(2)
// fails with EBUSY. It is changed in place then, so that at every time its content is a whole set
// of users, with the old or with the new hash, even if the process or the machine stops: first the
// new line is appended, which has no effect while an earlier line has the same name; then one
// byte makes a comment of each earlier line. If the disk is full, the appended part is removed.

// setInPlace changes the hash of a user in the file, which it locks. Other processes of this
// package, in other containers, too, wait for the lock.
func setInPlace(path, user, stored string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := flock(f); err != nil {
		return fmt.Errorf("cannot lock %s: %w", path, err)
	}
	old, _, err := readFile(path, openOperand)
	if err != nil {
		return err
	}
	changed, err := withHash(old, user, stored)
	if err != nil {
		return fmt.Errorf("user file %s: %w", path, err)
	}
	if err := appendLine(f, old, lastLine(changed, user)); err != nil {
		return fmt.Errorf("cannot write to %s, and nothing was changed: %w", path, err)
	}
	return retire(f, old, user)
}

// lastLine returns the first line of the user, which has the new hash, with a line feed.
func lastLine(text []byte, user string) []byte {
	at := linesOf(text, user)[0]
	return append(bytes.TrimRight(text[at.start:at.end:at.end], "\r\n"), '\n')
}

// A span is a part of a file, from one offset up to another.
type span struct{ start, end int }

// linesOf returns the places of the lines that have the name, with their line ends.
func linesOf(text []byte, user string) (places []span) {
	start := len(text) - len(bytes.TrimPrefix(text, byteOrderMark))
	for raw := range bytes.Lines(text[start:]) {
		if l, why := parseLine(raw); why == "" && l.user == user {
			places = append(places, span{start, start + len(raw)})
		}
		start += len(raw)
	}
	return places
}

// appendLine appends a line to the file, whose content is old. It reserves the room first.
func appendLine(f *os.File, old, line []byte) error {
	if n := len(old); n > 0 && old[n-1] != '\n' {
		line = append([]byte{'\n'}, line...)
	}
	size := int64(len(old))
	if info, err := f.Stat(); err != nil || info.Size() != size {
		return errors.Join(err, errors.New("another program has changed the file meanwhile; try again"))
	}
	err := reserve(f, size, int64(len(line)))
	if err == nil {
		_, err = f.WriteAt(line, size)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return errors.Join(err, f.Truncate(size))
	}
	return nil
}

// retire makes comments of the lines of the user in old, and overwrites their content. The first
// line counts, so it is the last one to go.
func retire(f *os.File, old []byte, user string) error {
	places := linesOf(old, user)
	for i := len(places) - 1; i >= 0; i-- {
		line := bytes.TrimRight(old[places[i].start:places[i].end], "\r\n")
		blank := bytes.Repeat([]byte{' '}, len(line)-1)
		copy(blank, " replaced by postern passwd")
		_, err := f.WriteAt([]byte{'#'}, int64(places[i].start))
		if err == nil {
			_, err = f.WriteAt(blank, int64(places[i].start)+1)
		}
		if err != nil {
			return fmt.Errorf("the new hash is in the last line of %s, but the old line of %q could not be changed and still counts: %w", f.Name(), user, err)
		}
	}
	return f.Sync()
}

// flock waits for an exclusive lock, which ends when f is closed.
func flock(f *os.File) error {
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
