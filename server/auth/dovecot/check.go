package dovecot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Check connects once more, apart from what is being served, and says what is
// wrong and what to do about it.
func (s *Store) Check(ctx context.Context) error {
	_, err := s.probe(ctx)
	return err
}

// probe connects and returns what is offered.
func (s *Store) probe(ctx context.Context) ([]mechanism, error) {
	c, err := connect(ctx, s.link.addr)
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return nil, s.link.addr.explain(err)
	}
	if err != nil {
		return nil, err
	}
	return c.greeting.mechanisms, c.net.Close()
}

// listenerLines is what makes Dovecot listen for us. Postfix's own socket lies in
// a folder that only Postfix may enter.
const listenerLines = `let Dovecot listen on a second socket, beside the one of Postfix:

  service auth {
    unix_listener auth-postern {
      mode = 0660
      group = %s
    }
  }

and name it: path = "/run/dovecot/auth-postern"`

// explain says why Dovecot cannot be reached at the address.
func (a Address) explain(err error) error {
	if a.network == "tcp" {
		return fmt.Errorf("cannot connect to Dovecot at %s; does its service auth have an inet_listener there?: %w", a, err)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("socket %s does not exist; start Dovecot, or "+listenerLines+": %w", a, groupName(), err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("uid %d may not connect to socket %s: %s; "+listenerLines+": %w",
			os.Geteuid(), a, obstacle(a.addr), groupName(), err)
	case errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("nobody listens on socket %s (%s); start Dovecot: %w", a, describe(a.addr), err)
	}
	return fmt.Errorf("cannot connect to Dovecot's socket %s (%s): %w", a, describe(a.addr), err)
}

// obstacle names what on the way to path keeps this process out.
func obstacle(path string) string {
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		if _, err := os.Lstat(dir); err == nil {
			if unix.Access(dir, unix.X_OK) != nil {
				return "folder " + describe(dir)
			}
			return "socket " + describe(path)
		}
	}
}

// describe names path, mode and owner.
func describe(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return path + ", which cannot be looked at"
	}
	var raw unix.Stat_t
	if err := unix.Stat(path, &raw); err != nil {
		return path + ", which cannot be looked at"
	}
	return fmt.Sprintf("%s has mode %04o and belongs to %s, group %s",
		path, info.Mode().Perm(), ownerName(raw.Uid), nameOfGroup(raw.Gid))
}

func ownerName(uid uint32) string {
	number := strconv.Itoa(int(uid))
	if u, err := user.LookupId(number); err == nil {
		return u.Username
	}
	return "uid " + number
}

func nameOfGroup(gid uint32) string {
	number := strconv.Itoa(int(gid))
	if g, err := user.LookupGroupId(number); err == nil {
		return g.Name
	}
	return number
}

// groupName is the group of this process.
func groupName() string { return nameOfGroup(uint32(os.Getegid())) }
