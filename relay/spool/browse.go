package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"
)

// ErrGone means that there is no such message in the spool, or that it has been delivered
// or removed meanwhile.
var ErrGone = errors.New("not in the spool (any more)")

// gone replaces an error about a missing file by ErrGone.
func gone(id string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", id, ErrGone)
	}
	return err
}

// A Browser lists and changes the messages of a spool from another process, while the
// server is running or not. It only renames and removes files and sets their times; the
// server detects that within seconds. A message that is being delivered at that moment is
// delivered.
type Browser struct{ folder folder }

// Browse returns a Browser for the spool in dir, which must exist.
func Browse(dir string) (*Browser, error) {
	b := &Browser{folder{dir: dir}}
	if _, err := os.Stat(b.folder.path(queued)); err != nil {
		return nil, fmt.Errorf("%s is not the folder of a spool: %w", dir, err)
	}
	return b, nil
}

// A State is where a message of the spool is.
type State string

const (
	Queued State = queued // to be delivered
	Held   State = held   // not tried until it is released
	Bad    State = broken // damaged
)

// An Item is one message of the spool. For a Bad one, only ID, State, Size and Reason are
// set.
type Item struct {
	ID      string
	State   State
	Size    int64 // of the file
	Arrived time.Time
	Next    time.Time // attempt; in the past if no hop replies
	Login   string
	Sender  string
	Pending []string // recipients that do not have it yet
	Done    int      // recipients that have it, or that were reported to the sender
	Tries   int
	Reason  string // of the last failure
}

// List returns all messages in the order of their arrival.
func (b *Browser) List() ([]Item, error) {
	var all []Item
	for _, state := range []State{Queued, Held, Bad} {
		files, err := os.ReadDir(b.folder.path(string(state)))
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			if !validID(f.Name()) {
				continue
			}
			item, err := b.item(f.Name(), state)
			if errors.Is(err, fs.ErrNotExist) {
				continue // delivered meanwhile
			}
			if err != nil {
				return nil, err
			}
			all = append(all, item)
		}
	}
	slices.SortFunc(all, func(a, b Item) int { return strings.Compare(a.ID, b.ID) })
	return all, nil
}

func (b *Browser) item(id string, state State) (Item, error) {
	info, err := os.Lstat(b.folder.path(string(state), id))
	if err != nil {
		return Item{}, err
	}
	i := Item{ID: id, State: state, Size: info.Size(), Next: info.ModTime()}
	if !info.Mode().IsRegular() {
		i.State, i.Reason = Bad, "it is not a regular file"
		return i, nil
	}
	file, err := os.Open(b.folder.path(string(state), id))
	if err != nil {
		return Item{}, err
	}
	defer file.Close()
	c, err := parseFile(file)
	if errors.Is(err, errDamaged) {
		i.State, i.Reason = Bad, err.Error()
		return i, nil
	}
	if err != nil {
		return Item{}, err
	}
	i.Arrived, i.Login, i.Sender, i.Tries = c.Arrived, c.Envelope.Login, c.Envelope.Sender, c.tries
	for _, place := range c.pending() {
		i.Pending = append(i.Pending, c.To[place].Address)
	}
	i.Done = len(c.To) - len(i.Pending)
	if i.Reason = c.reason; i.Reason == "" {
		i.Reason = oneLine(c.header.Reason)
	}
	return i, nil
}

// Show returns one message, and writes it to out if out is not nil.
func (b *Browser) Show(id string, out io.Writer) (Item, error) {
	state, err := b.find(id)
	if err != nil {
		return Item{}, err
	}
	item, err := b.item(id, state)
	if err != nil || out == nil || item.State == Bad {
		return item, err
	}
	file, err := os.Open(b.folder.path(string(state), id))
	if err != nil {
		return Item{}, err
	}
	defer file.Close()
	c, err := parseFile(file)
	if err != nil {
		return Item{}, err
	}
	_, err = io.Copy(out, io.NewSectionReader(file, c.start, c.Size))
	return item, err
}

func (b *Browser) find(id string) (State, error) {
	if !validID(id) {
		return "", fmt.Errorf("%q is not the id of a spooled message; run \"postern queue list\"", id)
	}
	for _, state := range []State{Queued, Held, Bad} {
		if _, err := os.Lstat(b.folder.path(string(state), id)); !errors.Is(err, fs.ErrNotExist) {
			return state, err
		}
	}
	return "", gone(id, fs.ErrNotExist)
}

// Flush makes a message due now.
func (b *Browser) Flush(id string) error {
	state, err := b.find(id)
	if err != nil {
		return err
	}
	if state != Queued {
		return fmt.Errorf("%s is in %s, not in %s", id, state, Queued)
	}
	return gone(id, os.Chtimes(b.folder.path(queued, id), time.Time{}, time.Now()))
}

// Hold keeps a message from being tried.
func (b *Browser) Hold(id string) error { return b.move(id, Queued, Held) }

// Release undoes Hold and makes the message due now.
func (b *Browser) Release(id string) error {
	if err := b.move(id, Held, Queued); err != nil {
		return err
	}
	if err := b.Flush(id); !errors.Is(err, ErrGone) {
		return err
	}
	return nil // delivered already
}

func (b *Browser) move(id string, from, to State) error {
	state, err := b.find(id)
	if err != nil {
		return err
	}
	if state != from {
		return fmt.Errorf("%s is in %s, not in %s", id, state, from)
	}
	return gone(id, b.folder.move(id, string(from), string(to)))
}

// Remove deletes a message without a report to its sender.
func (b *Browser) Remove(id string) error {
	state, err := b.find(id)
	if err != nil {
		return err
	}
	if err := os.Remove(b.folder.path(string(state), id)); err != nil {
		return gone(id, err)
	}
	return b.folder.syncDir(string(state))
}

// Check tests whether the server can use the folder dir. It may be running. The error
// contains the next step.
func Check(dir string) error {
	f := folder{dir: dir}
	place := dir
	if _, err := os.Stat(f.path(incoming)); err == nil {
		place = f.path(incoming)
	}
	file, err := os.CreateTemp(place, "check-*")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("relay.spool: %w: run install -d -m 0700 -o USER %s, with the user that postern runs as", err, dir)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("relay.spool: %w: run chown -R USER %s, with the user that postern runs as", err, dir)
	case err != nil:
		return fmt.Errorf("relay.spool: %w", err)
	}
	return errors.Join(file.Sync(), file.Close(), os.Remove(file.Name()))
}
