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
	// readDelay is the time between the first notification of a change and reading: a
	// renewal changes several files, one after the other.
	readDelay = 500 * time.Millisecond
	// pollInterval bounds how late a change is detected without notifications, which
	// network file systems do not have and which can be lost.
	pollInterval = time.Minute
	// ageInterval is how often warnings about the validity are repeated.
	ageInterval = 24 * time.Hour
)

// Watch reads pairs again when their files change, and returns when ctx ends.
func (f *Files) Watch(ctx context.Context) {
	w := f.newWatcher()
	if w.notify != nil {
		defer w.notify.Close()
	}
	due := time.NewTimer(0) // files may have changed since they were opened
	defer due.Stop()
	soon := false // due ends a readDelay, not a pollInterval
	age := time.NewTicker(ageInterval)
	defer age.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.events:
			// Further changes do not delay the reading, or a folder with many changes
			// could do so for ever.
			if !soon {
				due.Reset(readDelay)
				soon = true
			}
		case err := <-w.errors:
			f.events.WatchFailed(true, err)
		case <-due.C:
			f.reloadChanged()
			w.follow(f.folders())
			due.Reset(pollInterval)
			soon = false
		case <-age.C:
			f.Warn()
		}
	}
}

// A watcher receives notifications of changes in folders.
type watcher struct {
	notify  *fsnotify.Watcher     // nil if the system gives no notifications
	events  <-chan fsnotify.Event // nil likewise
	errors  <-chan error
	folders map[string]bool
}

func (f *Files) newWatcher() *watcher {
	w := &watcher{}
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		f.events.WatchFailed(false, err)
		return w
	}
	w.notify, w.events, w.errors = notify, notify.Events, notify.Errors
	w.follow(f.folders())
	return w
}

// follow watches exactly these folders. Watched folders are added once more, since a folder
// that was removed and made again is not watched any more.
func (w *watcher) follow(folders map[string]bool) {
	if w.notify == nil {
		return
	}
	for folder := range w.folders {
		if !folders[folder] {
			_ = w.notify.Remove(folder) // it may not exist any more
		}
	}
	for folder := range folders {
		_ = w.notify.Add(folder) // if it cannot be watched, the files are checked every minute
	}
	w.folders = folders
}

// folders returns the folders in which a change can replace one of the files: the folder of
// each file, of each link in its path, and of the file that it leads to. Certbot replaces
// links in the first, Kubernetes a link named ..data in the path.
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
