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
)

// A problem is one mistake in the file.
type problem struct {
	path  string // of the key, as placeMap knows it
	at    place
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
		return cmp.Or(cmp.Compare(a.at.line, b.at.line), cmp.Compare(a.at.col, b.at.col))
	})
	return &configError{file: file, text: text, problems: problems}
}

// settle finds where p stands: at the key or the value, and within the value
// at the first word that the reason quotes from it.
func (p *problem) settle(text string, places placeMap) {
	e := places.find(p.path)
	if p.atKey || e.value.line == 0 {
		p.at = e.key
		return
	}
	p.at = e.value
	line := sourceLine(text, p.at.line)
	value := line[min(p.at.col-1, len(line)):min(p.at.col-1+p.at.width, len(line))]
	for _, quoted := range quotedWord.FindAllString(p.why, -1) {
		word, err := strconv.Unquote(quoted)
		if i := strings.Index(value, word); err == nil && word != "" && i >= 0 && len(word) < len(value)-2 {
			p.at.col, p.at.width = p.at.col+i, len(word)
			return
		}
	}
}

var quotedWord = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)

func (e *configError) Error() string {
	var b strings.Builder
	for i, p := range e.problems {
		if i > 0 {
			b.WriteString("\n")
		}
		e.show(&b, p)
	}
	return strings.TrimSuffix(b.String(), "\n")
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
	line := sourceLine(e.text, p.at.line)
	hide := hider(line)
	if p.at.line == 0 { // nothing in the file to point at
		fmt.Fprintf(b, "%s: %s\n", e.file, p.sentence())
	} else {
		fmt.Fprintf(b, "%s:%d: %s\n", e.file, p.at.line, hide.Replace(p.sentence()))
		showLine(b, hide.Replace(line), p.at)
	}
	if p.hint != "" {
		fmt.Fprintf(b, "     = %s\n", hide.Replace(p.hint))
	}
}

// showLine writes the line and the caret under its place.
func showLine(b *strings.Builder, line string, at place) {
	start := min(max(at.col-1, 0), len(line))
	end := min(start+max(at.width, 1), len(line))
	before, marked, after := printable(line[:start]), printable(line[start:end]), printable(line[end:])
	before, marked, after = lastRunes(before, 60), firstRunes(marked, 60), firstRunes(after, 60)
	carets := strings.Repeat("^", max(utf8.RuneCountInString(marked), 1))
	fmt.Fprintf(b, "%4d | %s%s%s\n", at.line, before, marked, after)
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
	return strings.Map(func(r rune) rune {
		if r != '\t' && !unicode.IsPrint(r) {
			return utf8.RuneError
		}
		return r
	}, s)
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

// sourceLine returns a line without its end; lines count from 1.
func sourceLine(text string, n int) string {
	for ; n > 1; n-- {
		_, text, _ = strings.Cut(text, "\n")
	}
	line, _, _ := strings.Cut(text, "\n")
	return strings.TrimSuffix(line, "\r")
}

// What must not reach a screen or a log: a value whose key speaks of a secret
// rather than of the file that holds it, and a password in a URL. No key of
// ours takes a secret, but people try.
var (
	secretValue = regexp.MustCompile(`(?i)^\s*[\w."'-]*(?:pass|secret|token)[\w"'-]*\s*=\s*["']*([^"'\s].*?)["']*\s*$`)
	secretFile  = regexp.MustCompile(`(?i)^[^=]*(?:file|path)["']?\s*=`)
	secretInURL = regexp.MustCompile(`://[^\s"'@]*?:([^\s"']+)@`)
)

// hider puts stars in the place of each secret in line.
func hider(line string) *strings.Replacer {
	var pairs []string
	found := secretInURL.FindAllStringSubmatch(line, -1)
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
	at := placeAt(text, pe.Position.Start, pe.Position.Len)
	line := sourceLine(text, at.line)
	p := problem{at: at, why: "this is not TOML: " + pe.Message, hint: hintForSyntax(line)}
	switch {
	case strings.Contains(pe.Message, "already been defined"):
		p.at = wholeLine(line, at.line)
		p.hint = "keep one of the two and remove the other"
	case holdsSecret(line): // the message may quote it
		p.why = "this is not TOML"
	}
	return p
}

// placeAt finds the line of an offset. The parser has a line number too, but
// it is sometimes that of the next line.
func placeAt(text string, offset, width int) place {
	before := text[:min(max(offset, 0), len(text))]
	return place{
		line:  1 + strings.Count(before, "\n"),
		col:   len(before) - strings.LastIndexByte(before, '\n'),
		width: width,
	}
}

func wholeLine(line string, n int) place {
	indent := len(line) - len(strings.TrimLeft(line, " \t"))
	return place{line: n, col: indent + 1, width: len(strings.TrimSpace(line))}
}
