package userfile

import (
	"bytes"
	"cmp"
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
	maxLine  = 4096      // bytes
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

// A table is the content of a file.
type table struct {
	hashes  map[string]string // by name; empty: locked
	kind    hash.Kind         // of most hashes
	shape   hash.ScramShape   // of most SCRAM keys
	noScram []string          // users without SCRAM keys that are not locked
	tooMany []string          // users whose keys have more iterations than Cyrus SASL computes
}

// A problem is a line that was skipped. Its reason contains nothing of the line.
type problem struct {
	line int
	why  string
}

type problems []problem

// summary returns one text for all problems.
func (p problems) summary() string {
	const limit = 10
	var lines []string
	for _, one := range p[:min(len(p), limit)] {
		lines = append(lines, fmt.Sprintf("line %d: %s", one.line, one.why))
	}
	if len(p) > limit {
		lines = append(lines, fmt.Sprintf("and %d more lines", len(p)-limit))
	}
	return strings.Join(lines, "; ")
}

// parse parses a whole file. It returns an error only if there are too many users.
func parse(text []byte) (*table, problems, error) {
	t := &table{hashes: make(map[string]string)}
	var tally hash.Tally
	var skipped problems
	number := 0
	for line := range bytes.Lines(bytes.TrimPrefix(text, byteOrderMark)) {
		number++
		user, stored, why := parseLine(line)
		if why == "" && user == "" {
			continue
		}
		if _, twice := t.hashes[user]; twice {
			why = "the name occurs twice, and its first line is used; delete one of them"
		}
		if why == "" {
			why = cmp.Or(t.add(user, stored, &tally), unsupported(line))
		}
		if why != "" {
			skipped = append(skipped, problem{number, why})
		}
		if len(t.hashes) > maxUsers || len(skipped) > maxUsers {
			return nil, nil, fmt.Errorf("more than %d users", maxUsers)
		}
	}
	t.kind, t.shape = tally.Kind(), tally.Shape()
	return t, skipped, nil
}

// add adds a user. It returns a reason if the hash is not valid.
func (t *table) add(user, stored string, tally *hash.Tally) (why string) {
	h, err := hash.Parse(stored)
	switch {
	case err != nil:
		return err.Error()
	case h.Locked():
		stored = ""
	default:
		tally.Add(h)
		t.list(user, h)
	}
	t.hashes[user] = stored
	return ""
}

// list adds a user that SCRAM locks out to the lists of these.
func (t *table) list(user string, h hash.Hash) {
	if keys, ok := h.ScramKeys(); !ok {
		t.noScram = append(t.noScram, user)
	} else if keys.Iterations > hash.CyrusMaxIterations {
		t.tooMany = append(t.tooMany, user)
	}
}

// parseLine parses one line. Without a user and a reason, the line is to be ignored.
func parseLine(line []byte) (user, stored, why string) {
	if len(line) > maxLine {
		return "", "", fmt.Sprintf("longer than %d bytes", maxLine)
	}
	s := strings.TrimRight(string(line), "\r\n \t")
	if s == "" || s[0] == '#' {
		return "", "", ""
	}
	user, rest, ok := strings.Cut(s, ":")
	if !ok {
		return "", "", "no colon; write it as user:hash"
	}
	if err := checkName(user); err != nil {
		return "", "", err.Error()
	}
	stored, rest, _ = strings.Cut(rest, ":")
	if closed(rest) {
		stored = ""
	}
	return user, stored, ""
}

// extraFields returns the extra fields of a Dovecot passwd-file. After the hash a line has uid,
// gid, gecos, home, shell, and then extra fields with blanks between them.
func extraFields(rest string) []string {
	fields := strings.SplitN(rest, ":", 6)
	return strings.Fields(fields[len(fields)-1])
}

// closed reports whether an extra field locks the account, as in Dovecot. Networks are not
// compared here, so a user that is limited to some networks is locked.
func closed(rest string) bool {
	return slices.ContainsFunc(extraFields(rest), func(f string) bool {
		name, _, _ := strings.Cut(f, "=")
		return name == "nologin" || limitsNetworks(name)
	})
}

func limitsNetworks(name string) bool { return name == "allow_nets" || name == "allow_real_nets" }

// unsupported returns a reason if the user is locked by a field that is not supported.
func unsupported(line []byte) string {
	_, rest, _ := strings.Cut(string(line), ":")
	_, rest, _ = strings.Cut(rest, ":")
	for _, f := range extraFields(rest) {
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
	case strings.ContainsFunc(user, unicode.IsControl):
		return errors.New("the name contains a control character")
	}
	return nil
}
