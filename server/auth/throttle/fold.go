package throttle

import (
	"strings"
	"unicode"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// foldMax is enough for every login that a store gets; a longer one is cut.
const foldMax = 1024 // bytes

// Fold returns the same text for all logins that a store might compare as equal: databases
// and directories ignore case, width, blanks, or even accents. It compares wider than any
// one of them, which is right for penalties and wrong for privileges.
func Fold(login string) string {
	login = login[:min(len(login), foldMax)]
	if !strings.ContainsFunc(login, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return strings.ToLower(login) // the same result for ASCII, and each login needs it
	}
	decomposed := norm.NFKD.String(login)
	// Folding alone exchanges the cases of some letters of Cherokee.
	lower := strings.ToLower(strings.Map(significant, decomposed))
	return norm.NFKD.String(cases.Fold().String(lower))
}

// significant drops accents and what is not visible: blanks, controls, soft hyphens,
// joiners.
func significant(r rune) rune {
	if unicode.IsSpace(r) || unicode.In(r, unicode.M, unicode.C, unicode.Z) {
		return -1
	}
	return r
}
