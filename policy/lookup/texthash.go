package lookup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"postern/internal/access"
	"postern/internal/fileperm"
)

// Bounds of a texthash: file. An entry takes about 130 bytes of memory.
const (
	maxFile    = 256 << 20 // bytes
	maxLine    = 64 << 10  // bytes of a line with its continuation lines
	maxEntries = 2_000_000
)

func checkTexthash(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%q is not an absolute path; write for example texthash:/etc/postern/senders", path)
	}
	return nil
}

func texthashAccess(path, key string, l *access.List) { l.Read(key, path) }

// openTexthash reads a file in the format of postmap(1) into memory:
//
//	# a comment
//	key whitespace value
//	  the value goes on
//
// Postfix's smtpd logs a line that it cannot read and ignores it. Here it is an error,
// because the line may have been meant to refuse something. A duplicate key is an error in
// smtpd as well, although postmap -q only warns about it.
func openTexthash(path string) (Table, error) {
	f, before, err := fileperm.Open(path, fileperm.Public, "a text file")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w; create the file or correct its path", err)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if before.Size() > maxFile {
		return nil, fmt.Errorf("%s has %d bytes, at most %d are allowed; split it into several tables", path, before.Size(), maxFile)
	}
	m := &memory{spelling: "texthash:" + path, unit: "line", entries: make(map[string]record)}
	r := texthashReader{table: m, path: path, values: make(map[string]string)}
	if err := r.read(f); err != nil {
		return nil, err
	}
	after, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if after.Size() != before.Size() || !after.ModTime().Equal(before.ModTime()) {
		return nil, fmt.Errorf("%s was changed while it was read; try again when the change is complete", path)
	}
	return m, nil
}

// A texthashReader joins the physical lines of a file into logical ones.
type texthashReader struct {
	table  *memory
	path   string
	values map[string]string // each distinct value once, because many lines have the same one

	logical strings.Builder
	first   int // line at which logical begins
}

func (r *texthashReader) read(f io.Reader) error {
	lines := bufio.NewScanner(io.LimitReader(f, maxFile+1))
	lines.Buffer(nil, maxLine)
	number := 0
	for lines.Scan() {
		number++
		line := lines.Text()
		if number == 1 {
			line = strings.TrimPrefix(line, "\ufeff") // the byte order mark of Windows editors
		}
		if err := r.line(line, number); err != nil {
			return err
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return r.tooLong(number + 1)
	}
	if lines.Err() != nil {
		return lines.Err()
	}
	return r.flush()
}

// line takes one physical line. As in postmap(1), comments and empty lines may come between a
// line and its continuation.
func (r *texthashReader) line(line string, number int) error {
	trimmed := strings.TrimLeft(line, blanks)
	if trimmed == "" || trimmed[0] == '#' {
		return nil
	}
	if continued := len(trimmed) < len(line); !continued {
		if err := r.flush(); err != nil {
			return err
		}
		r.first = number
	} else if r.logical.Len() == 0 {
		return r.bad(number, "begins with a blank, which continues the line before it, and there is none; remove the blank")
	}
	if r.logical.Len()+len(line) > maxLine {
		return r.tooLong(r.first)
	}
	r.logical.WriteString(line)
	return nil
}

// blanks are the bytes that isspace(3) accepts.
const blanks = " \t\r\n\v\f"

// flush adds the entry of the logical line that is complete.
func (r *texthashReader) flush() error {
	line := r.logical.String()
	r.logical.Reset()
	if line == "" {
		return nil
	}
	if !utf8.ValidString(line) || strings.IndexByte(line, 0) >= 0 {
		return r.bad(r.first, "is not UTF-8 text; convert the file to UTF-8")
	}
	end, err := keyEnd(line, blanks)
	if err != nil {
		return r.bad(r.first, err.Error())
	}
	key, value := line[:end], strings.Trim(line[end:], blanks)
	switch {
	case value == "":
		return r.bad(r.first, fmt.Sprintf("has the key %q and no value; add one, such as REJECT, or remove the line", key))
	case strings.HasSuffix(key, ":"):
		return r.bad(r.first, fmt.Sprintf("has the key %q, which matches nothing; remove the colon, which belongs in aliases(5)", key))
	case len(r.table.entries) >= maxEntries:
		return r.bad(r.first, fmt.Sprintf("is entry %d, at most %d are allowed; split the file into several tables", maxEntries+1, maxEntries))
	}
	if _, ok := r.values[value]; !ok {
		value = strings.Clone(value)
		r.values[value] = value
	}
	if err := r.table.add(strings.Clone(key), r.values[value], r.first); err != nil {
		return r.bad(r.first, "has the "+err.Error())
	}
	return nil
}

func (r *texthashReader) tooLong(number int) error {
	return r.bad(number, fmt.Sprintf("is longer than %d bytes; shorten it", maxLine))
}

func (r *texthashReader) bad(number int, why string) error {
	return fmt.Errorf("%s: line %d %s", r.path, number, why)
}
