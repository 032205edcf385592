package certs

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settle passes between the first sign of a change and the reading: a
	// renewal changes several files, one after the other.
	settle = 500 * time.Millisecond
	// pollInterval bounds how late a change is noticed where notifications are
	// not to be had (network file systems) or get lost.
	pollInterval = time.Minute
	// ageInterval is how often ageing certificates are complained of.
	ageInterval = 24 * time.Hour
)

// Watch reads pairs again when their files change, until ctx ends. It is to
// run in a goroutine of its own.
func (f *Files) Watch(ctx context.Context) {
	w := f.newWatcher()
	defer w.close()
	age := time.NewTicker(ageInterval)
	defer age.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.events:
			w.changed()
		case err := <-w.errors:
			f.events.WatchFailed(true, err)
		case <-w.due.C:
			f.reloadChanged()
			w.follow(f.folders())
			w.rest()
		case <-age.C:
			f.WarnOfAge()
		}
	}
}

// A watcher tells of changes in folders, and of the time to look anyway.
type watcher struct {
	notify  *fsnotify.Watcher     // nil where the system has none left
	events  <-chan fsnotify.Event // nil blocks for ever
	errors  <-chan error
	folders map[string]bool
	due     *time.Timer
	soon    bool // due ends a settle, not a pollInterval
}

func (f *Files) newWatcher() *watcher {
	w := &watcher{due: time.NewTimer(0)} // what changed since they were opened
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		f.events.WatchFailed(false, err)
		return w
	}
	w.notify, w.events, w.errors = notify, notify.Events, notify.Errors
	w.follow(f.folders())
	return w
}

// follow watches exactly these folders. Those watched already are added once
// more, since a folder that was removed and made anew has lost its watch.
func (w *watcher) follow(folders map[string]bool) {
	if w.notify == nil {
		return
	}
	for folder := range w.folders {
		if !folders[folder] {
			_ = w.notify.Remove(folder) // it may have gone by itself
		}
	}
	for folder := range folders {
		_ = w.notify.Add(folder) // one that cannot be watched is looked at every minute
	}
	w.folders = folders
}

// changed makes the files due soon. Further changes do not put that off, or a
// busy folder could do so for ever.
func (w *watcher) changed() {
	if !w.soon {
		w.due.Reset(settle)
		w.soon = true
	}
}

// rest makes the files due after a long while.
func (w *watcher) rest() {
	w.due.Reset(pollInterval)
	w.soon = false
}

func (w *watcher) close() {
	w.due.Stop()
	if w.notify != nil {
		_ = w.notify.Close()
	}
}

// folders lists where a change can exchange one of the files: the folder of
// each file, that of each link on the way to it, and the one it leads to.
// Certbot swaps links in the first, Kubernetes a link named ..data on the way.
func (f *Files) folders() map[string]bool {
	all := make(map[string]bool)
	for _, w := range f.pairs {
		for _, name := range []string{w.Cert, w.Key} {
			addFolders(all, name)
		}
	}
	return all
}

func addFolders(all map[string]bool, name string) {
	abs, err := filepath.Abs(name)
	if err != nil {
		return
	}
	all[filepath.Dir(abs)] = true
	for p := filepath.Dir(abs); p != filepath.Dir(p); p = filepath.Dir(p) {
		if st, err := os.Lstat(p); err == nil && st.Mode()&fs.ModeSymlink != 0 {
			all[filepath.Dir(p)] = true
		}
	}
	if target, err := filepath.EvalSymlinks(abs); err == nil {
		all[filepath.Dir(target)] = true
	}
}
