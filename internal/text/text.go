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
