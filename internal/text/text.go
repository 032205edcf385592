// Package text makes text from outside (clients, servers, files) safe for logs,
// replies and terminals, and finds the name that a misspelled one probably means.
//
// Each caller chooses what replaces an unsafe character and how long the text may be:
// a reply has a space or "?", a message on a terminal has U+FFFD. All lengths are in
// bytes, and text is only cut between two characters.
package text

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// IsASCII reports whether s has only bytes below 0x80.
func IsASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// Unprintable reports whether r may not be shown as it is: control characters, line
// and paragraph separators, marks that change the direction of writing, all spaces
// other than U+0020, and U+FFFD, which an invalid byte decodes to.
func Unprintable(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }

// Printable replaces each unprintable character and each invalid byte of s. A negative
// replacement removes them.
func Printable(s string, replacement rune) string { return Replace(s, Unprintable, replacement) }

// Replace replaces each character for which unsafe reports true. An invalid byte counts
// as U+FFFD. If there is none, it returns s without copying it.
func Replace(s string, unsafe func(rune) bool, replacement rune) string {
	return strings.Map(func(r rune) rune {
		if unsafe(r) {
			return replacement
		}
		return r
	}, s)
}

// Line makes s one printable line of at most limit bytes: every sequence of white
// space and unprintable characters becomes one space.
func Line(s string, limit int) string {
	return Cut(strings.Join(strings.Fields(Printable(s, ' ')), " "), limit)
}

// Cut returns at most limit bytes from the start of s.
func Cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for n := range min(limit, utf8.UTFMax) { // a longer sequence is not UTF-8
		if utf8.RuneStart(s[limit-n]) {
			return s[:limit-n]
		}
	}
	return s[:limit]
}

// Shorten returns s, or at most limit bytes of it and "...".
func Shorten(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return Cut(s, limit) + "..."
}

// ValidName reports whether s can be the name of a user, of at most limit bytes: it can be
// compared with other names, and control characters cannot end a line of the log or of a
// message header.
func ValidName(s string, limit int) bool {
	return s != "" && len(s) <= limit && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// Nearest returns the name that written probably means: the one with the fewest
// edits between them, if there are at most three, and at most one for every three
// letters (one is always allowed). Names are in lower case; the case of written does
// not count. It returns "" if no name is near enough.
func Nearest(written string, names []string) string {
	written = strings.ToLower(written)
	nearest, fewest := "", 1+max(1, min(len(written)/3, 3))
	for _, name := range names {
		if max(len(name)-len(written), len(written)-len(name)) >= fewest {
			continue
		}
		if n := edits(written, name); n < fewest {
			nearest, fewest = name, n
		}
	}
	return nearest
}

// edits returns how many bytes of a have to be inserted, deleted, replaced or swapped
// with their neighbour to get b (the optimal string alignment distance).
func edits(a, b string) int {
	var before, last []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, last, row = last, row, make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			replaced := last[j]
			if a[i] != b[j] {
				replaced++
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, replaced)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(b)]
}
