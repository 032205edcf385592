package userfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"postern/internal/fileperm"
	"postern/server/auth/hash"
)

// Bounds of a file. A hundred thousand users need about 10 MiB.
const (
	maxFile  = 64 << 20  // bytes
	maxLine  = 4096      // bytes without the line end
	maxUsers = 1_000_000 // lines with a user
	maxUser  = 512       // bytes of a name; mechanisms refuse longer ones
)

// A stamp changes when the file does.
type stamp struct {
	device, inode  uint64
	size           int64
	mtime, changed time.Time
}

// An opener opens a regular file.
type opener func(path string) (*os.File, fs.FileInfo, error)

// wanted is what a path must name.
const wanted = "a file with a line user:hash for each user"

// openChecked opens a file for the store, which must not let other users of the machine add
// accounts.
func openChecked(path string) (*os.File, fs.FileInfo, error) {
	return fileperm.Open(path, fileperm.Private, wanted)
}

// openOperand opens a file that the command line names.
func openOperand(path string) (*os.File, fs.FileInfo, error) {
	return fileperm.OpenRegular(path, wanted)
}

// readFile returns the content of the file, and its stamp from before the read.
func readFile(path string, open opener) ([]byte, stamp, error) {
	f, _, err := open(path)
	if err != nil {
		return nil, stamp{}, explain(path, err)
	}
	defer f.Close()
	var raw unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &raw); err != nil {
		return nil, stamp{}, explain(path, err)
	}
	if raw.Size > maxFile {
		return nil, stamp{}, fmt.Errorf("user file %s: larger than %d MiB", path, maxFile>>20)
	}
	var text bytes.Buffer
	text.Grow(int(raw.Size) + bytes.MinRead)
	if _, err := text.ReadFrom(io.LimitReader(f, maxFile)); err != nil {
		return nil, stamp{}, explain(path, err)
	}
	return text.Bytes(), newStamp(&raw), nil
}

func newStamp(raw *unix.Stat_t) stamp {
	return stamp{
		device:  uint64(raw.Dev),
		inode:   uint64(raw.Ino),
		size:    raw.Size,
		mtime:   time.Unix(raw.Mtim.Unix()),
		changed: time.Unix(raw.Ctim.Unix()),
	}
}

// explain adds the next step.
func explain(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("user file %s does not exist; create it with: postern passwd %s NAME: %w", path, path, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("user file %s cannot be read by uid %d; give its group read access (chgrp, chmod 640): %w", path, os.Geteuid(), err)
	}
	if _, refused := errors.AsType[fileperm.Refused](err); refused {
		return fmt.Errorf("user file: %w", err) // which names it
	}
	return fmt.Errorf("user file %s: %w", path, err)
}

// byteOrderMark is written by some editors at the beginning of a file.
var byteOrderMark = []byte("\ufeff")

// A line is one line with a user.
type line struct {
	user, stored string
	separator    string   // ":", or "|" as docker-mailserver writes it
	extra        []string // fields of Dovecot after the hash
	lone         bool     // after the hash is one text only, neither a number nor an extra field
}

// parseLine parses one line. Without a user and a reason, the line is to be ignored.
func parseLine(text []byte) (l line, why string) {
	text = bytes.TrimRight(text, "\r\n")
	if len(text) > maxLine {
		return line{}, fmt.Sprintf("longer than %d bytes", maxLine)
	}
	s := string(text)
	if strings.ContainsRune(s, '\r') {
		return line{}, "a carriage return within the line; end each line with a line feed (mac2unix, or dos2unix -c mac)"
	}
	if strings.TrimSpace(s) == "" || s[0] == '#' {
		return line{}, ""
	}
	l.separator = separatorOf(s)
	user, rest, ok := strings.Cut(s, l.separator)
	if !ok {
		return line{}, "no colon; write it as user:hash"
	}
	if err := checkName(user); err != nil {
		return line{}, err.Error()
	}
	stored, rest, _ := strings.Cut(rest, l.separator)
	l.user, l.stored, l.extra = user, hash.Trim(stored), extraFields(rest, l.separator)
	l.lone = strings.Trim(rest, "0123456789 ") != "" && !strings.ContainsAny(rest, ":|=") && !l.closed()
	return l, ""
}

// separatorOf returns what separates the fields of a line. docker-mailserver writes "|", and
// the scheme after it (postfix-accounts.cf); names may have that character, too.
func separatorOf(s string) string {
	bar, colon := strings.IndexByte(s, '|'), strings.IndexByte(s, ':')
	switch {
	case bar >= 0 && colon < 0:
		return "|"
	case bar >= 0 && bar < colon && strings.ContainsRune(hashStarts, rune(s[bar+1])):
		return "|"
	}
	return ":"
}

// hashStarts are the characters with which a hash or the mark of a locked account begins.
const hashStarts = "{$!*"

// extraFields returns the extra fields of a Dovecot passwd-file. After the hash a line has uid,
// gid, gecos, home, shell, and then extra fields with blanks between them; in the form of
// docker-mailserver, the extra fields only.
func extraFields(rest, separator string) []string {
	if separator == "|" {
		return strings.Fields(rest)
	}
	fields := strings.SplitN(rest, ":", 6)
	return strings.Fields(fields[len(fields)-1])
}

// closed reports whether an extra field locks the account, as in Dovecot. Networks are not
// compared here, so a user that is limited to some networks is locked.
func (l line) closed() bool {
	return slices.ContainsFunc(l.extra, func(f string) bool {
		name, _, _ := strings.Cut(f, "=")
		return name == "nologin" || limitsNetworks(name)
	})
}

func limitsNetworks(name string) bool { return name == "allow_nets" || name == "allow_real_nets" }

// unsupported returns a reason if the user is locked by a field that is not supported.
func (l line) unsupported() string {
	for _, f := range l.extra {
		if name, _, _ := strings.Cut(f, "="); limitsNetworks(name) {
			return "Dovecot's " + name + " is not supported, so this user is locked; remove it to allow logins from all networks"
		}
	}
	return ""
}

// checkName returns an error if user is not valid as a name in the file.
func checkName(user string) error {
	switch {
	case user == "":
		return errors.New("the name is empty")
	case len(user) > maxUser:
		return fmt.Errorf("the name is longer than %d bytes", maxUser)
	case !utf8.ValidString(user):
		return errors.New("the name is not UTF-8")
	case strings.TrimSpace(user) != user:
		return errors.New("the name begins or ends with a blank")
	case user[0] == '#':
		return errors.New(`the name begins with "#", which makes its line a comment`)
	case strings.ContainsRune(user, ':'):
		return errors.New("the name contains a colon")
	case endsBefore(user):
		return errors.New("the name contains \"|\" before what begins a hash, so that its line would have another meaning")
	case strings.ContainsFunc(user, unicode.IsControl):
		return errors.New("the name contains a control character")
	}
	return nil
}

// endsBefore reports whether a line with the name is read as one of docker-mailserver with
// another name.
func endsBefore(user string) bool { return separatorOf(user+":") == "|" }
