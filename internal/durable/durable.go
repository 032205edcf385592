// Package durable replaces files so that they survive a crash of the machine: afterwards
// a path has the old content or the new one, never a part of it.
package durable

import (
	"errors"
	"os"
	"path/filepath"
)

// Replace writes content into f, a new empty file in the folder of target, closes f and
// renames it to target. It returns after the content and the rename are on the disk. If it
// fails, it removes f, unless the rename has been done already and only the folder could
// not be synchronized.
//
// The caller makes f, and so decides its name, mode and owner.
func Replace(f *os.File, target string, content []byte) error {
	_, err := f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), target)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return SyncFolder(filepath.Dir(target))
}

// SyncFolder writes the names in a folder to the disk. A new, renamed or removed file can
// return to its earlier state after a crash until then (fsync(2)).
func SyncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
