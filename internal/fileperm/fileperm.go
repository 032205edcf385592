// Package fileperm explains "permission denied": it finds the file or the folder of its path
// that this process has no access to, with its owner and mode.
//
// The next step depends on the purpose of the file, so the caller adds it.
package fileperm

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// The permissions that may be missing, as the bits of a mode for others.
const (
	Read  fs.FileMode = 0o4
	Write fs.FileMode = 0o2 // needed to connect to a socket, too
	enter fs.FileMode = 0o1 // a folder
)

// A Blocker is the file that cannot be opened, or the folder of its path that cannot be
// entered.
type Blocker struct {
	Path     string
	Mode     fs.FileMode
	UID, GID int
	Need     fs.FileMode // the missing permission; of a folder that to enter it
}

// maxLinks is the number of symbolic links that Linux follows.
const maxLinks = 40

// FindBlocker follows path and its links as the kernel does, until this process has no
// access. need is the permission needed at the end.
func FindBlocker(path string, need fs.FileMode) (Blocker, bool) {
	done, rest := "/", split(path)
	for links := 0; len(rest) > 0; {
		next := filepath.Join(done, rest[0])
		info, err := os.Lstat(next)
		if err != nil {
			return blockerAt(done, need)
		}
		rest = rest[1:]
		if info.Mode()&fs.ModeSymlink == 0 {
			done = next
			continue
		}
		target, err := os.Readlink(next)
		if links++; err != nil || links > maxLinks {
			return Blocker{}, false
		}
		if filepath.IsAbs(target) {
			done = "/"
		}
		rest = append(split(target), rest...)
	}
	return blockerAt(done, need)
}

func split(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == filepath.Separator })
}

func blockerAt(path string, need fs.FileMode) (Blocker, bool) {
	info, err := os.Lstat(path)
	if err != nil {
		return Blocker{}, false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return Blocker{}, false
	}
	if info.IsDir() {
		need = enter
	}
	return Blocker{Path: path, Mode: info.Mode(), UID: int(st.Uid), GID: int(st.Gid), Need: need}, true
}

// String returns the path with its owner and mode.
func (b Blocker) String() string {
	return fmt.Sprintf("%s, which belongs to %s:%s with mode %04o", b.Path, UserName(b.UID), GroupName(b.GID), b.Mode.Perm())
}

// Group returns the name of the group whose members have the permission. It is empty if the
// group does not have it, if the group is root's, or if it is one of groups.
func (b Blocker) Group(groups []int) string {
	if b.Mode.Perm()&(b.Need<<3) == 0 || b.GID == 0 || slices.Contains(groups, b.GID) {
		return ""
	}
	return GroupName(b.GID)
}

// UserName returns the name of a user, or the number if there is none (a container with an
// arbitrary uid).
func UserName(uid int) string {
	id := strconv.Itoa(uid)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

// GroupName returns the name of a group, or the number if there is none.
func GroupName(gid int) string {
	id := strconv.Itoa(gid)
	if g, err := user.LookupGroupId(id); err == nil {
		return g.Name
	}
	return id
}

// ExplainDial adds the cause to the error of a connection to a Unix socket: the path that is
// missing or not accessible, with its owner and mode. Other errors are returned unchanged.
func ExplainDial(err error) error {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Op != "dial" || op.Addr == nil || op.Addr.Network() != "unix" {
		return err
	}
	path := op.Addr.String()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w; %s does not exist: start the server, or correct the path of its socket", err, firstMissing(path))
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w; no process listens there (%s): start the server again", err, at(path))
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; uid %d has no access to %s", err, os.Geteuid(), at(path))
	}
	return err
}

// at describes the file or folder that blocks the path of a socket.
func at(path string) string {
	if b, ok := FindBlocker(path, Write); ok {
		return b.String()
	}
	return path
}

// firstMissing returns the shortest prefix of path that does not exist.
func firstMissing(path string) string {
	for missing := path; ; missing = filepath.Dir(missing) {
		dir := filepath.Dir(missing)
		if _, err := os.Lstat(dir); err == nil || dir == missing {
			return missing
		}
	}
}

// OpenRegular opens a regular file for reading. what is the file that an error asks for
// instead, such as "a text file". The caller closes the file.
func OpenRegular(path, what string) (*os.File, fs.FileInfo, error) {
	// Without O_NONBLOCK, opening a named pipe would wait for a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file; name %s", path, what)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// ReadSecret reads at most limit bytes of a regular file that contains a secret: a password
// or a private key. It refuses a file that every user of the machine can read or change.
// Errors name the file and do not repeat its content.
func ReadSecret(path string, limit int64) ([]byte, error) {
	f, info, err := OpenRegular(path, "the file that contains the secret")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if mode := info.Mode().Perm(); mode&0o007 != 0 {
		return nil, fmt.Errorf("%s has mode %04o, which gives every user of this machine access to the secret; run chmod o= %s", path, mode, path)
	}
	return io.ReadAll(io.LimitReader(f, limit))
}

// maxSecret is more than a password or the address of a database needs.
const maxSecret = 4 << 10 // bytes

// ReadSecretLine returns the only line of a file, which is a password or contains one. The
// mode of the file must deny access to other users of the machine. Errors name the file and
// do not repeat its content.
func ReadSecretLine(path string) (string, error) {
	text, err := ReadSecret(path, maxSecret+1)
	if err != nil {
		return "", err
	}
	secret, err := oneLine(text)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return secret, nil
}

func oneLine(text []byte) (string, error) {
	line := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	switch {
	case len(text) > maxSecret:
		return "", errors.New("the file is too long for one secret; write only the secret into it")
	case line == "":
		return "", errors.New("the file is empty; write the secret on its only line")
	case strings.ContainsAny(line, "\x00\r\n"):
		return "", errors.New("the file has more than one line; write only the secret, on one line")
	}
	return line, nil
}
