package sqldb

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"modernc.org/sqlite"

	"postern/internal/fileperm"
)

// The result codes of SQLite (https://www.sqlite.org/rescode.html). The last byte of an extended
// code is the primary one.
const (
	sqliteError    = 1
	sqlitePerm     = 3
	sqliteBusy     = 5
	sqliteLocked   = 6
	sqliteReadonly = 8
	sqliteCorrupt  = 11
	sqliteCantOpen = 14
	sqliteNotADB   = 26
)

func (p place) explainSQLite(err error) error {
	if e := explainFile(p.file); e != nil {
		return cause(fmt.Errorf("%w (%w)", e.err, err), e.step, "%s", e.cause)
	}
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return err
	}
	switch e.Code() & 0xff {
	case sqliteNotADB:
		return cause(err, "correct path", "%s is not an SQLite database, or an encrypted one", p.file)
	case sqliteCorrupt:
		return cause(err, fmt.Sprintf("run sqlite3 %s 'pragma integrity_check', and restore a copy", fileperm.ShellQuote(p.file)), "the SQLite database %s is damaged", p.file)
	case sqliteBusy, sqliteLocked:
		return cause(err, fmt.Sprintf("end the transaction of the program that has it open (run fuser %s)", fileperm.ShellQuote(p.file)),
			"the SQLite database %s is locked by another program for more than 5 seconds", p.file)
	case sqliteCantOpen, sqliteReadonly, sqlitePerm:
		dir := filepath.Dir(p.file)
		return cause(err, fmt.Sprintf("run sqlite3 %s 'pragma journal_mode=delete', or give the user write access to the folder", fileperm.ShellQuote(p.file)),
			"the SQLite database %s is in WAL mode, and the user %s cannot create its files -shm and -wal in the folder %s",
			p.file, fileperm.UserName(os.Geteuid()), dir)
	case sqliteError:
		return cause(err, "correct the query, or path", "the database %s refuses the query: %s", p.file, clean(e.Error()))
	}
	return err
}

// A fileProblem is why a file cannot be read.
type fileProblem struct {
	cause, step string
	err         error
}

// explainFile returns nil if the file can be read.
func explainFile(path string) *fileProblem {
	f, err := os.Open(path)
	if err == nil {
		defer f.Close()
		if info, err := f.Stat(); err == nil && info.IsDir() {
			return &fileProblem{path + " is a folder", "set path to the file of the database", syscall.EISDIR}
		}
		return nil
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &fileProblem{fmt.Sprintf("the file %s does not exist", path), "correct path, or create the database", err}
	case errors.Is(err, fs.ErrPermission):
		if b, ok := fileperm.FindBlocker(path, fileperm.Read); ok {
			return &fileProblem{
				fmt.Sprintf("the user %s has no access to %s", fileperm.UserName(os.Geteuid()), b),
				"give it read access to the file, and to its folders that of entering them",
				err,
			}
		}
	}
	return &fileProblem{err.Error(), "correct path", err}
}
