package userfile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"postern/server/auth/hash"
)

// SetPassword writes the hash of a user into a user file: into the line of the
// user, whose further fields stay, or into a new one at the end. All other lines
// stay as they are. A file that does not exist is made, for its owner alone.
//
// The file is replaced as a whole: at every moment there is the old one or the
// new one, on the disk, too. Mode and owner stay; access control lists do not.
// Of a symbolic link the target is replaced. Several processes may do this at
// once.
func SetPassword(path, user, stored string) error {
	if err := checkName(user); err != nil {
		return fmt.Errorf("user %q: %w", user, err)
	}
	if err := checkStored(stored); err != nil {
		return fmt.Errorf("user %q: %w", user, err)
	}
	target, err := resolve(path)
	if err != nil {
		return err
	}
	unlock, err := lock(filepath.Dir(target))
	if err != nil {
		return err
	}
	defer unlock()
	old, _, err := readFile(target)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return replace(target, withHash(old, user, stored))
}

// checkStored makes sure that the line can be read again.
func checkStored(stored string) error {
	if strings.ContainsAny(stored, ":\r\n") {
		return errors.New("the hash holds a colon or the end of a line")
	}
	_, err := hash.Parse(stored)
	return err
}

// resolve follows symbolic links. The last of them must not lead nowhere.
func resolve(path string) (string, error) {
	target, err := filepath.EvalSymlinks(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return target, err
	}
	// A plain file here has been made by somebody else meanwhile.
	if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return "", fmt.Errorf("%s is a symbolic link to a file that does not exist; make that file, or remove the link", path)
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	return filepath.Join(dir, filepath.Base(path)), err
}

// lock keeps other writers out. It is the folder that is locked, because the file
// is exchanged for another one.
func lock(dir string) (unlock func() error, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot lock folder %s: %w", dir, err)
	}
	return f.Close, nil
}

// withHash returns the text with the hash in the first line of the user.
func withHash(text []byte, user, stored string) []byte {
	var changed bytes.Buffer
	done := false
	for line := range bytes.Lines(bytes.TrimPrefix(text, byteOrderMark)) {
		if name, _, why := parseLine(line); !done && why == "" && name == user {
			line = withHashInLine(line, stored)
			done = true
		}
		changed.Write(line)
	}
	if done {
		return changed.Bytes()
	}
	if n := changed.Len(); n > 0 && changed.Bytes()[n-1] != '\n' {
		changed.WriteByte('\n')
	}
	changed.WriteString(user + ":" + stored + "\n")
	return changed.Bytes()
}

// withHashInLine exchanges the second field and keeps the rest, the end of the
// line included.
func withHashInLine(line []byte, stored string) []byte {
	user, rest, _ := strings.Cut(string(line), ":")
	end := strings.IndexAny(rest, ":\r\n")
	if end < 0 {
		end = len(rest)
	}
	return []byte(user + ":" + stored + rest[end:])
}

// replace puts a new file in the place of target.
func replace(target string, text []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(target), ".postern-users-*")
	if err != nil {
		return fmt.Errorf("cannot write beside %s: %w", target, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err := likeBefore(f, target); err != nil {
		return err
	}
	if _, err := f.Write(text); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), target); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(target))
}

// likeBefore gives the new file the mode and owner of the old one, if there is
// one, while it is empty.
func likeBefore(f *os.File, target string) error {
	var before, now unix.Stat_t
	err := unix.Stat(target, &before)
	if errors.Is(err, unix.ENOENT) {
		return nil // CreateTemp has made it for its owner alone
	}
	if err == nil {
		err = unix.Fstat(int(f.Fd()), &now)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", target, err)
	}
	if now.Uid != before.Uid || now.Gid != before.Gid {
		if err := f.Chown(int(before.Uid), int(before.Gid)); err != nil {
			return fmt.Errorf("cannot keep owner %d and group %d of %s, run this as root: %w", before.Uid, before.Gid, target, err)
		}
	}
	return f.Chmod(fs.FileMode(before.Mode).Perm())
}

// syncFolder makes sure that the rename outlives a power cut.
func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
