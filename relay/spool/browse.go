package spool

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
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
//
// It may run as root in a folder that belongs to the server's user, so it trusts nothing
// in there: it follows no link that leads out of the folder, and opens no pipe or device.
type Browser struct{ root *os.Root }

// Browse returns a Browser for the spool in dir, which must exist. The caller closes it.
func Browse(dir string) (*Browser, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("%s is not the folder of a spool: %w", dir, err)
	}
	if _, err := root.Stat(queued); err != nil {
		return nil, errors.Join(fmt.Errorf("%s is not the folder of a spool: %w", dir, err), root.Close())
	}
	return &Browser{root}, nil
}

// Close closes the folder.
func (b *Browser) Close() error { return b.root.Close() }

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
		d, err := b.openFolder(state)
		if err != nil {
			return nil, err
		}
		files, err := d.ReadDir(-1)
		if err = errors.Join(err, d.Close()); err != nil {
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
	info, err := b.root.Lstat(place(state, id))
	if err != nil {
		return Item{}, err
	}
	i := Item{ID: id, State: state, Size: info.Size(), Next: info.ModTime()}
	file, c, err := b.open(state, id)
	if errors.Is(err, errDamaged) {
		i.State, i.Reason = Bad, err.Error()
		return i, nil
	}
	if err != nil {
		return Item{}, err
	}
	defer file.Close()
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

// place returns the path of a message in the folder of the spool.
func place(state State, id string) string { return path.Join(string(state), id) }

// open opens and parses a message.
func (b *Browser) open(state State, id string) (*os.File, *content, error) {
	if info, err := b.root.Lstat(place(state, id)); err == nil && !info.Mode().IsRegular() {
		return nil, nil, damaged("it is not a regular file")
	}
	// Without O_NONBLOCK, a pipe that replaces the file now would wait for a writer.
	file, err := b.root.OpenFile(place(state, id), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	c, err := parseFile(file)
	if err != nil {
		return nil, nil, errors.Join(err, file.Close())
	}
	return file, c, nil
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
	file, c, err := b.open(state, id)
	if err != nil {
		return Item{}, err
	}
	defer file.Close()
	_, err = io.Copy(out, io.NewSectionReader(file, c.start, c.Size))
	return item, err
}

func (b *Browser) find(id string) (State, error) {
	if !validID(id) {
		return "", fmt.Errorf("%q is not the id of a spooled message; run \"postern queue list\"", id)
	}
	for _, state := range []State{Queued, Held, Bad} {
		if _, err := b.root.Lstat(place(state, id)); !errors.Is(err, fs.ErrNotExist) {
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
	return gone(id, b.root.Chtimes(place(Queued, id), time.Time{}, time.Now()))
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
	if err := b.root.Rename(place(from, id), place(to, id)); err != nil {
		return gone(id, err)
	}
	return errors.Join(b.sync(to), b.sync(from))
}

// Remove deletes a message without a report to its sender.
func (b *Browser) Remove(id string) error {
	state, err := b.find(id)
	if err != nil {
		return err
	}
	if err := b.root.Remove(place(state, id)); err != nil {
		return gone(id, err)
	}
	return b.sync(state)
}

// openFolder opens a folder, and nothing else: opening a pipe would wait for a writer.
func (b *Browser) openFolder(state State) (*os.File, error) {
	return b.root.OpenFile(string(state), os.O_RDONLY|unix.O_DIRECTORY, 0)
}

func (b *Browser) sync(state State) error {
	d, err := b.openFolder(state)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Check tests whether the server can use the folder dir. It may be running. The error
// contains the next step.
func Check(dir string) error {
	err := tryWriting(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("relay.spool: %w: run install -d -m 0700 -o USER %s, with the user that postern runs as", err, dir)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("relay.spool: %w: run chown -R USER %s, with the user that postern runs as", err, dir)
	case err != nil:
		return fmt.Errorf("relay.spool: %w", err)
	}
	return nil
}

// tryWriting writes a file in the folder and removes it. Like a Browser, it does not leave
// the folder.
func tryWriting(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	name := "check-" + rand.Text()
	if _, err := root.Stat(incoming); !errors.Is(err, fs.ErrNotExist) {
		name = path.Join(incoming, name)
	}
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close(), root.Remove(name))
}
