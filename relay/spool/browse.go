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

// ErrGone means that a message is not in the spool, or not any more: one that
// the server works on may be delivered at any moment.
var ErrGone = errors.New("it is not in the spool (any more)")

// gone is err about the file of a message, with ErrGone for one that is missing.
func gone(id string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", id, ErrGone)
	}
	return err
}

// A Browser looks at a spool and interferes with it from outside, while a
// server works on it or not. It only renames, removes and touches files; the
// server notices within seconds. A message that is being handed on in that
// moment goes its way.
type Browser struct{ folder folder }

// Browse looks at the spool in dir, which must be there.
func Browse(dir string) (*Browser, error) {
	b := &Browser{folder{dir: dir}}
	if _, err := os.Stat(b.folder.path(queued)); err != nil {
		return nil, fmt.Errorf("there is no spool in %s: %w", dir, err)
	}
	return b, nil
}

// A State is where a message of the spool is.
type State string

const (
	Queued State = queued // to be delivered
	Held   State = held   // left alone until it is released
	Bad    State = broken // damaged, set aside
)

// An Item is one message of the spool. Of a Bad one only ID, State, Size and
// Reason are known.
type Item struct {
	ID      string
	State   State
	Size    int64 // of the file
	Arrived time.Time
	Next    time.Time // attempt; past if it waits for the next hop only
	Login   string
	Sender  string
	Pending []string // recipients who do not have it yet
	Done    int      // recipients who do, or whose sender has a report
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
		i.State, i.Reason = Bad, "it is no file"
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
	i.describe(c)
	return i, nil
}

func (i *Item) describe(c *content) {
	i.Arrived, i.Login, i.Sender, i.Tries = c.Arrived, c.Envelope.Login, c.Envelope.Sender, c.tries
	for _, place := range c.pending() {
		i.Pending = append(i.Pending, c.To[place].Address)
	}
	i.Done = len(c.To) - len(i.Pending)
	if i.Reason = c.reason; i.Reason == "" {
		i.Reason = oneLine(c.header.Reason)
	}
}

// Show finds one message, and writes it to out if that is not nil.
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
		return "", fmt.Errorf("%q is no id of a spooled message; see \"postern queue list\"", id)
	}
	for _, state := range []State{Queued, Held, Bad} {
		if _, err := os.Lstat(b.folder.path(string(state), id)); !errors.Is(err, fs.ErrNotExist) {
			return state, err
		}
	}
	return "", gone(id, fs.ErrNotExist)
}

// Flush has a message tried as soon as the hop can be tried.
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

// Release undoes Hold, and has the message tried.
func (b *Browser) Release(id string) error {
	if err := b.move(id, Held, Queued); err != nil {
		return err
	}
	if err := b.Flush(id); !errors.Is(err, ErrGone) {
		return err
	}
	return nil // tried already, and delivered
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

// Remove throws a message away. Nobody is told.
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

// Check says whether the server can work in the folder dir, which may be at
// work there now, and what to do if it cannot.
func Check(dir string) error {
	f := folder{dir: dir}
	place := dir
	if _, err := os.Stat(f.path(incoming)); err == nil {
		place = f.path(incoming)
	}
	file, err := os.CreateTemp(place, "check-*")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("relay.spool: %w: make it: install -d -m 0700 -o USER %s, with the user that postern runs as", err, dir)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("relay.spool: %w: give it to the user that postern runs as: chown -R USER %s", err, dir)
	case err != nil:
		return fmt.Errorf("relay.spool: %w", err)
	}
	return errors.Join(file.Sync(), file.Close(), os.Remove(file.Name()))
}
