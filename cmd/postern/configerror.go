package main

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/BurntSushi/toml"

	"postern/internal/text"
)

// A problem is one mistake in the file.
type problem struct {
	path  string // of the key, as placeMap knows it
	at    span
	atKey bool // the key is wrong, not its value
	why   string
	hint  string // what to do about it; may be empty
}

// A configError shows all problems of a file, each with its line, a caret
// under the place, the reason, and what to do.
type configError struct {
	file     string
	text     string
	problems []problem
}

// newConfigError finds the places of the problems and sorts by them.
func newConfigError(file, text string, problems []problem) *configError {
	places := locate(text)
	for i := range problems {
		problems[i].settle(text, places)
	}
	slices.SortStableFunc(problems, func(a, b problem) int {
		return cmp.Or(cmp.Compare(a.at.start, b.at.start), cmp.Compare(a.path, b.path))
	})
	return &configError{file: file, text: text, problems: problems}
}

// settle finds where p stands: at the key or the value, and within the value
// at the first word that the reason quotes from it.
func (p *problem) settle(text string, places placeMap) {
	e := places.find(p.path)
	if p.atKey || e.value.nowhere() {
		p.at = e.key
		return
	}
	p.at = e.value
	for _, quoted := range quotedWord.FindAllString(p.why, -1) {
		word, err := strconv.Unquote(quoted)
		i := strings.Index(e.value.of(text), word)
		if err == nil && word != "" && i >= 0 {
			start := e.value.start + i
			p.at = widen(text, span{start, start + len(word)})
			return
		}
	}
}

// widen takes in the quotes around s.
func widen(text string, s span) span {
	if s.start > 0 && s.end < len(text) && text[s.start-1] == text[s.end] && strings.IndexByte(`"'`, text[s.end]) >= 0 {
		return span{s.start - 1, s.end + 1}
	}
	return s
}

var quotedWord = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)

// maxShown is how many problems somebody can want to read at once.
const maxShown = 20

func (e *configError) Error() string {
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

// sentence puts the name of the key before the reason.
func (p problem) sentence() string {
	if p.atKey || p.path == "" {
		return p.why
	}
	return plain(p.path) + ": " + p.why
}

// show writes one problem:
//
//	config.toml:3: server.hide_client: must be true or false, not text
//	   3 | hide_client = "yes"
//	     |               ^^^^^
//	     = write true, without quotes
func (e *configError) show(b *strings.Builder, p problem) {
	n, line, at := lineAt(e.text, p.at)
	hide := hider(line)
	if p.at.nowhere() {
		fmt.Fprintf(b, "%s: %s\n", e.file, told(p.sentence()))
	} else {
		fmt.Fprintf(b, "%s:%d: %s\n", e.file, n, told(hide.Replace(p.sentence())))
		showLine(b, n, hide.Replace(line), at)
	}
	if p.hint != "" {
		fmt.Fprintf(b, "     = %s\n", told(hide.Replace(p.hint)))
	}
}

// told makes one line for a terminal of what may quote anything.
func told(s string) string { return firstRunes(printable(s), 600) }

// lineAt returns the number and the text of the line where s begins, and s
// within that line.
func lineAt(text string, s span) (n int, line string, at span) {
	start := strings.LastIndexByte(text[:s.start], '\n') + 1
	line, _, _ = strings.Cut(text[start:], "\n")
	line = strings.TrimSuffix(line, "\r")
	at = span{min(s.start-start, len(line)), min(s.end-start, len(line))}
	return 1 + strings.Count(text[:start], "\n"), line, at
}

// showLine writes the line and the caret under its place.
func showLine(b *strings.Builder, n int, line string, at span) {
	before := lastRunes(printable(line[:at.start]), 60)
	marked := firstRunes(printable(line[at.start:at.end]), 60)
	after := firstRunes(printable(line[at.end:]), 60)
	carets := strings.Repeat("^", max(utf8.RuneCountInString(marked), 1))
	fmt.Fprintf(b, "%4d | %s%s%s\n", n, before, marked, after)
	fmt.Fprintf(b, "     | %s%s\n", blankLike(before), carets)
}

// blankLike is as wide as s on the screen.
func blankLike(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return r
		}
		return ' '
	}, s)
}

// printable takes out what a terminal would obey.
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

// What must not reach a screen or a log: a value whose key speaks of a secret
// rather than of the file that holds it, a password in a URL, and a private
// key in PEM. No key of ours takes a secret, but people try.
var (
	secretValue = regexp.MustCompile(`(?i)^\s*[\w."'-]*(?:pass|secret|token)[\w"'-]*\s*=\s*["']*([^"'\s].*?)["']*\s*$`)
	secretFile  = regexp.MustCompile(`(?i)^[^=]*(?:file|path)["']?\s*=`)
	secretInURL = regexp.MustCompile(`://[^\s"'@]*?:([^\s"']+)@`)
	secretInPEM = regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----\W*(\w[^"']*)`)
)

// hider puts stars in the place of each secret in line.
func hider(line string) *strings.Replacer {
	var pairs []string
	found := secretInURL.FindAllStringSubmatch(line, -1)
	found = append(found, secretInPEM.FindAllStringSubmatch(line, -1)...)
	if holdsSecret(line) {
		found = append(found, secretValue.FindStringSubmatch(line))
	}
	for _, m := range found {
		pairs = append(pairs, m[1], strings.Repeat("*", len(m[1])))
	}
	return strings.NewReplacer(pairs...)
}

func holdsSecret(line string) bool {
	return secretValue.MatchString(line) && !secretFile.MatchString(line)
}

// syntaxProblem turns an error of the parser into a problem. The parser cannot
// go on after the first one.
func syntaxProblem(text string, err error) problem {
	pe := toml.ParseError{}
	if !errors.As(err, &pe) {
		return problem{why: err.Error()}
	}
	// The parser has a line number too, but it is sometimes that of the next.
	start := min(max(pe.Position.Start, 0), len(text))
	at := span{start, min(start+max(pe.Position.Len, 1), len(text))}
	_, line, within := lineAt(text, at)
	p := problem{at: at, why: "this is not TOML: " + pe.Message, hint: hintForSyntax(line)}
	switch {
	case strings.Contains(pe.Message, "already been defined"):
		p.at.start -= within.start
		p.at.end = p.at.start + len(line)
		p.hint = "keep one of the two and remove the other"
	case holdsSecret(line): // the message may quote it
		p.why = "this is not TOML"
	}
	return p
}
