package userfile

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"postern/internal/durable"
	"postern/server/auth"
	"postern/server/auth/hash"
)

// SetPassword writes the hash of a user into a user file: into the user's line, whose further
// fields are kept, or into a new line at the end. Other lines are not changed. A missing file
// is created with mode 0600. A user that the file has in another spelling is an error. A new
// line is of the form of the first one.
//
// The file is replaced atomically, so that a crash leaves the old or the new one. Its mode and
// owner are kept, access control lists are not. If path is a symbolic link, its target is
// replaced. Several processes may call this at once.
//
// A file that cannot be replaced is changed in place (see inplace.go), after a call of inPlace
// with the reason, if it is not nil. The errors have the next step.
func SetPassword(path, user, stored string, inPlace func(why string)) error {
	if err := checkName(user); err != nil {
		return fmt.Errorf("user %q: %w", user, err)
	}
	if err := checkStored(stored); err != nil {
		return fmt.Errorf("user %q: %w", user, err)
	}
	target, err := resolve(path)
	if err != nil {
		return explainWrite(path, err)
	}
	unlock, err := lock(filepath.Dir(target))
	if err == nil {
		defer unlock()
		if err = errMounted; !isMount(target) {
			err = setByReplacing(target, user, stored)
		}
	}
	why := obstacle(target, err)
	if why == "" || unix.Access(target, unix.R_OK|unix.W_OK) != nil {
		return explainWrite(target, err)
	}
	if inPlace != nil {
		inPlace(why)
	}
	return explainWrite(target, setInPlace(target, user, stored))
}

func setByReplacing(target, user, stored string) error {
	old, _, err := readFile(target, openOperand)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	changed, err := withHash(old, user, stored)
	if err != nil {
		return fmt.Errorf("user file %s: %w", target, err)
	}
	return replace(target, changed)
}

// checkStored returns an error if the line could not be parsed.
func checkStored(stored string) error {
	if strings.ContainsAny(stored, ":|\r\n") {
		return errors.New("the hash contains a colon, a vertical bar or a line break")
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
	if err := flock(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot lock folder %s: %w", dir, err)
	}
	return f.Close, nil
}

// withHash returns the text with the hash in the first line of the user, or in a new one.
func withHash(text []byte, user, stored string) ([]byte, error) {
	if isUTF16(text) {
		return nil, errUTF16
	}
	var changed bytes.Buffer
	done, number, separator := false, 0, ""
	var otherSpelling error
	for raw := range bytes.Lines(bytes.TrimPrefix(text, byteOrderMark)) {
		number++
		l, why := parseLine(raw)
		separator = cmp.Or(separator, l.separator)
		switch {
		case done || why != "" || l.user == "":
		case l.user == user:
			// Replace the second field, and keep the rest with the line end.
			_, rest, _ := strings.Cut(string(raw), l.separator)
			end := strings.IndexAny(rest, l.separator+"\r\n")
			if end < 0 {
				end = len(rest)
			}
			raw = []byte(user + l.separator + stored + rest[end:])
			done = true
		case auth.FoldLower.Login(l.user) == auth.FoldLower.Login(user):
			otherSpelling = fmt.Errorf("line %d has the name %q, which is the same login unless the store has fold = \"none\"; "+
				"give the name as it is spelled there", number, l.user)
		}
		changed.Write(raw)
	}
	switch {
	case done:
		return changed.Bytes(), nil
	case otherSpelling != nil:
		return nil, otherSpelling
	}
	if n := changed.Len(); n > 0 && changed.Bytes()[n-1] != '\n' {
		changed.WriteByte('\n')
	}
	changed.WriteString(user + cmp.Or(separator, ":") + stored + "\n")
	return changed.Bytes(), nil
}

// replace replaces target by a new file.
func replace(target string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(target), ".postern-users-*")
	if err != nil {
		return &replaceError{fmt.Errorf("cannot create a file in the folder of %s: %w", target, err)}
	}
	if err := copyMode(f, target); err != nil {
		return &replaceError{errors.Join(err, f.Close(), os.Remove(f.Name()))}
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
			return fmt.Errorf("cannot keep owner %d and group %d of %s: %w", before.Uid, before.Gid, target, err)
		}
	}
	return f.Chmod(fs.FileMode(before.Mode).Perm())
}
