package config

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"postern/internal/text"
)

// A problem is one mistake in the file.
type problem struct {
	path  string // of the key, as in placeMap
	at    span
	atKey bool // the key is wrong, not its value
	why   string
	hint  string // the next step; may be empty

	correct  string // the line as it has to be written; may be empty
	variable string // of the environment, with its value unless that may be a secret; empty for the file
}

// An Error is the list of all mistakes of a file, each with its line, a caret under
// the place, the reason and the next step.
type Error struct {
	file     string
	text     string
	problems []problem
}

// newError finds the places of the problems and sorts the problems by them.
func newError(file, text string, problems []problem) *Error {
	places := locate(text)
	for i := range problems {
		if problems[i].variable == "" {
			problems[i].find(text, places)
		}
	}
	slices.SortStableFunc(problems, func(a, b problem) int {
		return cmp.Or(cmp.Compare(a.at.start, b.at.start), cmp.Compare(a.path, b.path))
	})
	return &Error{file: file, text: text, problems: problems}
}

// find sets the place of p: the key or the value, and within the value the first
// word that the reason quotes from it, with its quotes.
func (p *problem) find(text string, places placeMap) {
	e := places.find(p.path)
	p.adviseCorrect(e, text)
	if p.atKey || e.value.none() {
		p.at = e.key
		return
	}
	p.at = e.value
	for _, quoted := range quotedWord.FindAllString(p.why, -1) {
		word, err := strconv.Unquote(quoted)
		i := strings.Index(e.value.of(text), word)
		if err != nil || word == "" || i < 0 {
			continue
		}
		s := span{e.value.start + i, e.value.start + i + len(word)}
		if s.start > 0 && s.end < len(text) && text[s.start-1] == text[s.end] && strings.IndexByte(`"'`, text[s.end]) >= 0 {
			s = span{s.start - 1, s.end + 1}
		}
		p.at = s
		return
	}
}

// adviseCorrect makes the correct line the next step. A secret could be in it in a form in
// which show does not recognise it.
func (p *problem) adviseCorrect(e entry, text string) {
	if p.correct == "" || len(p.correct) > maxCorrect || e.value.none() {
		return
	}
	if secret := slices.ContainsFunc(strings.Split(text[e.key.start:e.value.end], "\n"), hasSecrets); !secret {
		p.hint = "write " + p.correct
	}
}

var quotedWord = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)

// maxShown is the number of problems in the text of an Error.
const maxShown = 20

func (e *Error) Error() string {
	var b strings.Builder
	for _, p := range e.problems[:min(len(e.problems), maxShown)] {
		e.show(&b, p)
		b.WriteString("\n")
	}
	if more := len(e.problems) - maxShown; more > 0 {
		fmt.Fprintf(&b, "%s: and %d more\n", e.file, more)
	}
	return strings.TrimRight(b.String(), "\n")
}

// show writes one problem:
//
//	config.toml:3: server.hide_client: must be true or false, not text
//	   3 | hide_client = "yes"
//	     |               ^^^^^
//	     = write true, without quotes
//
// or, for a variable:
//
//	environment: POSTERN_LOG_LEVEL="loud": log.level: ...
func (e *Error) show(b *strings.Builder, p problem) {
	n, line, at := lineAt(e.text, p.at)
	if p.variable != "" {
		line = p.variable
	}
	secrets := secretsIn(line)
	reason := p.why
	if !p.atKey && p.path != "" {
		reason = plain(p.path) + ": " + reason
	}
	if p.variable != "" {
		fmt.Fprintf(b, "environment: %s: %s\n", oneLine(hide(p.variable)), oneLine(secrets.Replace(reason)))
	} else if p.at.none() {
		fmt.Fprintf(b, "%s: %s\n", e.file, oneLine(reason))
	} else {
		fmt.Fprintf(b, "%s:%d: %s\n", e.file, n, oneLine(secrets.Replace(reason)))
		showLine(b, n, hide(line), at)
	}
	if p.hint != "" {
		fmt.Fprintf(b, "     = %s\n", oneLine(secrets.Replace(p.hint)))
	}
}

// lineAt returns the number and the text of the line in which s begins, and s
// relative to that line.
func lineAt(text string, s span) (n int, line string, at span) {
	start := strings.LastIndexByte(text[:s.start], '\n') + 1
	line, _, _ = strings.Cut(text[start:], "\n")
	line = strings.TrimSuffix(line, "\r")
	at = span{min(s.start-start, len(line)), min(s.end-start, len(line))}
	return 1 + strings.Count(text[:start], "\n"), line, at
}

// showLine writes the line, and carets under at.
func showLine(b *strings.Builder, n int, line string, at span) {
	before := lastRunes(printable(line[:at.start]), 60)
	marked := firstRunes(printable(line[at.start:at.end]), 60)
	after := firstRunes(printable(line[at.end:]), 60)
	blank := strings.Map(func(r rune) rune {
		if r == '\t' { // as wide as in the line above
			return r
		}
		return ' '
	}, before)
	carets := strings.Repeat("^", max(utf8.RuneCountInString(marked), 1))
	fmt.Fprintf(b, "%4d | %s%s%s\n     | %s%s\n", n, before, marked, after, blank, carets)
}

// oneLine makes a text safe for a terminal: a reason may quote any part of the file.
func oneLine(s string) string { return firstRunes(printable(s), 600) }

// printable replaces control characters.
func printable(s string) string {
	return text.Replace(s, func(r rune) bool { return r != '\t' && !unicode.IsPrint(r) }, utf8.RuneError)
}

func firstRunes(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

func lastRunes(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return "…" + string(r[len(r)-n+1:])
	}
	return s
}
