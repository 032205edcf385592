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

	"postern/internal/durable"
	"postern/server/auth/hash"
)

// SetPassword writes the hash of a user into a user file: into the user's line, whose further
// fields are kept, or into a new line at the end. Other lines are not changed. A missing file
// is created with mode 0600.
//
// The file is replaced atomically, so that a crash leaves the old or the new one. Its mode and
// owner are kept, access control lists are not. If path is a symbolic link, its target is
// replaced. Several processes may call this at once.
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
	old, _, err := readFile(target, openOperand)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return replace(target, withHash(old, user, stored))
}

// checkStored returns an error if the line could not be parsed.
func checkStored(stored string) error {
	if strings.ContainsAny(stored, ":\r\n") {
		return errors.New("the hash contains a colon or a line break")
	}
	_, err := hash.Parse(stored)
	return err
}

// resolve follows symbolic links. It returns an error if the target does not exist.
func resolve(path string) (string, error) {
	target, err := filepath.EvalSymlinks(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return target, err
	}
	// A regular file at path was created by another process meanwhile.
	if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return "", fmt.Errorf("%s is a symbolic link to a file that does not exist; create that file, or remove the link", path)
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	return filepath.Join(dir, filepath.Base(path)), err
}

// lock excludes other writers. It locks the folder, because the file is replaced.
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
			// Replace the second field, and keep the rest with the line end.
			_, rest, _ := strings.Cut(string(line), ":")
			end := strings.IndexAny(rest, ":\r\n")
			if end < 0 {
				end = len(rest)
			}
			line = []byte(user + ":" + stored + rest[end:])
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

// replace replaces target by a new file.
func replace(target string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(target), ".postern-users-*")
	if err != nil {
		return fmt.Errorf("cannot create a file in the folder of %s: %w", target, err)
	}
	if err := copyMode(f, target); err != nil {
		return errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	return durable.Replace(f, target, text)
}

// copyMode gives the new file, while it is empty, the mode and owner of the old one, if there
// is one.
func copyMode(f *os.File, target string) error {
	var before, now unix.Stat_t
	err := unix.Stat(target, &before)
	if errors.Is(err, unix.ENOENT) {
		return nil // CreateTemp has set mode 0600
	}
	if err == nil {
		err = unix.Fstat(int(f.Fd()), &now)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", target, err)
	}
	if now.Uid != before.Uid || now.Gid != before.Gid {
		if err := f.Chown(int(before.Uid), int(before.Gid)); err != nil {
			return fmt.Errorf("cannot keep owner %d and group %d of %s; run this as root: %w", before.Uid, before.Gid, target, err)
		}
	}
	return f.Chmod(fs.FileMode(before.Mode).Perm())
}
