package spool

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"postern/relay/relaytest"
	"postern/test/kit"
)

// later refuses recipients and messages of bob temporarily.
func later(c relaytest.Command) relaytest.Answer {
	if c.Address == "bob@example.com" {
		return relaytest.Say("450 4.2.1 Later")
	}
	return relaytest.Usual
}

// A running server detects changes of the folder by another process.
func TestBrowse(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir, nil)
	r.spool.pace.firstRetry, r.spool.pace.retryMax = time.Hour, time.Hour // only Flush makes it due
	r.hop.Handle(later)
	id, gone := r.spooled(toBob("x")), r.spooled(toBob("gone"))
	r.deliver()
	b, err := Browse(dir)
	kit.Must(t, err)
	defer b.Close()
	var items []Item
	kit.Eventually(t, "both have been tried", func() bool {
		items, err = b.List()
		return err == nil && len(items) == 2 && putOff(items[0], 1) && putOff(items[1], 1)
	})
	if i := items[0]; i.ID != id || i.State != Queued || i.Sender != "alice@example.org" || i.Login != "alice" ||
		len(i.Pending) != 1 || i.Reason != "<bob@example.com>: 450 4.2.1 Later" {
		t.Errorf("%+v", i)
	}
	var text bytes.Buffer
	if _, err := b.Show(id, &text); err != nil || text.String() != toBob("x").text() {
		t.Errorf("show: %v\n%s", err, text.String())
	}

	do := func(what func(string) error, id string) {
		t.Helper()
		if err := what(id); err != nil {
			t.Fatal(err)
		}
	}
	do(b.Remove, gone)
	do(b.Hold, id)
	kit.Eventually(t, "no message is queued", func() bool { return len(r.spool.index.idle()) == 0 })
	if err := b.Flush(id); err == nil {
		t.Error("a message on hold was flushed")
	}
	do(b.Release, id)
	kit.Eventually(t, "it has been tried again", func() bool {
		i, err := b.Show(id, nil)
		return err == nil && putOff(i, 2)
	})
	r.hop.Handle(nil)
	do(b.Flush, id)
	r.empty()
	if got := subjects(r.hop.Delivered()); len(got) != 1 || got[0] != "x" {
		t.Errorf("delivered %q", got)
	}
}

// putOff reports whether this many attempts have been made and the next is far away.
func putOff(i Item, tries int) bool { return i.Tries == tries && time.Until(i.Next) > 30*time.Minute }

// An id is never used as a path.
func TestBrowseWantsIDs(t *testing.T) {
	dir := t.TempDir()
	newRig(t, dir, nil)
	b, err := Browse(dir)
	kit.Must(t, err)
	defer b.Close()
	for _, id := range []string{"", ".", "../lock", "00000000000000AAAAAA", "00000000000000aaaaaa"} {
		for _, do := range []func(string) error{b.Hold, b.Release, b.Flush, b.Remove} {
			if err := do(id); err == nil || validID(id) != errors.Is(err, ErrGone) {
				t.Errorf("%q: %v", id, err)
			}
		}
	}
	if _, err := Browse(t.TempDir()); err == nil {
		t.Error("an empty folder is taken for a spool")
	}
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	if err := Check(dir); err != nil {
		t.Error(err)
	}
	newRig(t, dir, nil)
	if err := Check(dir); err != nil {
		t.Errorf("while it is in use: %v", err)
	}
	if err := Check(dir + "/missing"); err == nil {
		t.Error("a missing folder is accepted")
	}
}

// A Browser may run as root in a folder that belongs to the server's user. Nothing outside of
// the folder is read or changed, and nothing is waited for.
func TestBrowseHostileFolder(t *testing.T) {
	const link, pipe, message = "00000000000000aaaaaa", "00000000000000aaaaab", "00000000000000aaaaac"
	dir, outside := t.TempDir(), t.TempDir()
	for _, sub := range []string{queued, held, broken} {
		kit.Must(t, os.Mkdir(filepath.Join(dir, sub), 0o700))
	}
	in := func(name string) string { return filepath.Join(dir, queued, name) }
	secret := filepath.Join(outside, "secret")
	long := time.Unix(1, 0)
	kit.Must(t, errors.Join(os.WriteFile(secret, []byte("secret"), 0o600), os.Chtimes(secret, long, long),
		os.Symlink(secret, in(link)), unix.Mkfifo(in(pipe), 0o600), os.WriteFile(in(message), nil, 0o600)))
	b, err := Browse(dir)
	kit.Must(t, err)
	defer b.Close()
	items, err := b.List()
	if err != nil || len(items) != 3 || items[0].State != Bad || items[1].State != Bad || items[2].State != Bad {
		t.Errorf("%+v, %v", items, err)
	}
	if err := b.Flush(link); err == nil {
		t.Error("the target of a link was flushed")
	}
	kit.Must(t, errors.Join(os.Remove(filepath.Join(dir, held)), os.Symlink(outside, filepath.Join(dir, held))))
	if err := b.Hold(message); err == nil {
		t.Error("a message was moved out of the folder")
	}
	if err := b.Remove(link); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(secret); err != nil || !info.ModTime().Equal(long) {
		t.Errorf("the file outside was changed: %v", err)
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) != 1 {
		t.Errorf("outside: %v, %v", left, err)
	}
	kit.Must(t, errors.Join(os.Remove(filepath.Join(dir, held)), unix.Mkfifo(filepath.Join(dir, held), 0o600)))
	if _, err := b.List(); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("a pipe in place of a folder: %v", err)
	}
	kit.Must(t, os.Symlink(outside, filepath.Join(dir, incoming)))
	if err := Check(dir); err == nil {
		t.Error("Check wrote outside")
	}
}
