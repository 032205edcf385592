package config

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

// syntaxProblem makes a problem of an error of the parser, which stops at the first.
func syntaxProblem(text string, err error) problem {
	pe := toml.ParseError{}
	if !errors.As(err, &pe) {
		return problem{why: err.Error()}
	}
	// The line number of the parser is sometimes that of the next line.
	start := min(max(pe.Position.Start, 0), len(text))
	at := span{start, min(start+max(pe.Position.Len, 1), len(text))}
	n, line, within := lineAt(text, at)
	above := text[:at.start-within.start]
	p := problem{at: at, why: "this is not TOML: " + pe.Message}
	switch {
	case strings.Contains(pe.Message, "already been defined"):
		p.at.start -= within.start
		p.at.end = p.at.start + len(line)
		p.why, p.hint = twice(above, line, pe.Message)
	case hasSecrets(line): // the message may quote it
		p.why, p.hint = "this is not TOML", hintForForm(line)
	case strings.Contains(pe.Message, "array terminator"):
		p.hint = hintForList(above, line, n)
	default:
		p.hint = hintForSyntax(above, line)
	}
	if len(p.hint) > maxCorrect {
		p.hint = hintForForm(line)
	}
	return p
}

// The beginnings of files that are not TOML at all.
var (
	jsonFile  = regexp.MustCompile(`^\s*\{`)
	yamlBlock = regexp.MustCompile(`^\s*([\w.-]+):\s*$`)
)

var (
	bareText   = regexp.MustCompile(`^\s*[\w."-]+\s*=\s*([A-Za-z/][^"#]*)`)
	bareBool   = regexp.MustCompile(`(?i)=\s*(yes|no|on|off|true|false)\s*(#|$)`)
	colonPair  = regexp.MustCompile(`^\s*([\w.-]+)\s*:\s*(.*?)\s*$`)
	openTable  = regexp.MustCompile(`^\s*(\[\[?)\s*([\w."-]+)[^\]]*\]?\s*$`)
	iniComment = regexp.MustCompile(`^\s*;`)
	noEquals   = regexp.MustCompile(`^[^=#]*$`)
	pair       = regexp.MustCompile(`^\s*([\w."-]+)\s*=\s*(.*?)\s*$`)
	twoPairs   = regexp.MustCompile(`^\s*[\w."-]+\s*=\s*("[^"]*"|'[^']*'|[\w.]+)[\s,;]+[\w."-]+\s*=`)
	backslash  = regexp.MustCompile(`^"[^"'[:cntrl:]]*\\[^"'[:cntrl:]]*"$`)
)

// hintForSyntax recognises common mistakes in a line that is not TOML, and returns the
// correct line where it can.
func hintForSyntax(above, line string) string {
	switch header := openTable.FindStringSubmatch(line); {
	case jsonFile.MatchString(line):
		return "write the configuration as in config.toml.example; JSON is not supported"
	case yamlBlock.MatchString(line):
		return "write [" + yamlBlock.FindStringSubmatch(line)[1] + "] on a line by itself, and its keys as key = value below"
	case twoPairs.MatchString(line):
		return "write each key on a line of its own"
	case header != nil:
		return "write " + header[1] + header[2] + strings.Repeat("]", len(header[1]))
	}
	if hint := hintForPair(above, line); hint != "" {
		return hint
	}
	return hintForForm(line)
}

// hintForForm recognises the same mistakes without quoting the line.
func hintForForm(line string) string {
	switch {
	case iniComment.MatchString(line):
		return "begin a comment with #"
	case colonPair.MatchString(line):
		return "separate a key from its value with =, not with a colon"
	case openTable.MatchString(line):
		return "end the name of a section with ]"
	case bareBool.MatchString(line):
		return "write true or false"
	case bareText.MatchString(line):
		return `write text in quotes, as in key = "value"`
	case strings.Count(line, `"`)%2 == 1:
		return `a quote (") is missing, or there is one too many`
	case noEquals.MatchString(line):
		return `write key = value, or [section]`
	}
	return ""
}

// hintForPair corrects the value of a line with a key.
func hintForPair(above, line string) string {
	m := pair.FindStringSubmatch(line)
	if m == nil {
		m = colonPair.FindStringSubmatch(line)
	}
	if m == nil || hasSecrets(line) {
		return ""
	}
	if hint := postfixHint(m[1]); hint != "" {
		return hint
	}
	key, value := m[1], strings.Map(plainQuote, m[2])
	if i := strings.LastIndex(value, " #"); i >= 0 && !strings.ContainsAny(value[i:], `"'`) {
		value = strings.TrimRight(value[:i], " \t") // a comment
	}
	if value == "" || strings.HasPrefix(value, "#") {
		return "write a value after " + key + " =, or remove the line"
	}
	if strings.HasPrefix(value, `"""`) || strings.HasPrefix(value, `'''`) {
		return ""
	}
	if backslash.MatchString(value) { // an escape that TOML does not have
		return "write " + key + " = '" + strings.Trim(value, `"`) + "'"
	}
	if c := correctPair(above, key, value); c != "" {
		return "write " + key + " = " + c
	}
	return ""
}

// plainQuote replaces the quotes that word processors and web pages make of " and '.
func plainQuote(r rune) rune {
	switch r {
	case '“', '”', '„', '‟', '«', '»':
		return '"'
	case '‘', '’', '‚', '‛', '`':
		return '\''
	}
	return r
}

// correctPair returns the value that the text after the key stands for, in the form that the
// key takes.
func correctPair(above, key, value string) string {
	path := join(sectionOf(above), strings.Trim(key, `"`))
	_, last := cutLast(path)
	bare := value
	if list, ok := strings.CutPrefix(value, "["); ok {
		bare = strings.NewReplacer(`"`, "", `'`, "").Replace(strings.TrimSuffix(list, "]"))
	} else if _, isText := parsed(value).(string); isText {
		bare = strings.Trim(value, `"'`)
	}
	var raw any = bare
	if _, isText := parsed(value).(string); !isText {
		raw = parsed(value)
	}
	if t := typeOf(path); t != nil {
		return correct(t, last, raw)
	}
	if bare != value || strings.HasPrefix(value, "[") {
		return ""
	}
	return strconv.Quote(bare)
}

var (
	anyHeader = regexp.MustCompile(`(?m)^\s*\[\[?\s*([\w."-]+)\s*\]\]?`)
	openList  = regexp.MustCompile(`^\s*[\w."-]+\s*=\s*\[`)
	newItem   = regexp.MustCompile(`^\s*(?:[\w."-]+\s*=|\[\[?[\w."-]+\]|$)`)
)

// sectionOf returns the plain path of the section in which a text ends.
func sectionOf(above string) string {
	all := anyHeader.FindAllStringSubmatch(above, -1)
	if len(all) == 0 {
		return ""
	}
	return all[len(all)-1][1]
}

// hintForList explains a list that does not go on as it has to in line n.
func hintForList(above, line string, n int) string {
	if !newItem.MatchString(line) || openList.MatchString(line) && strings.Contains(line, "]") {
		return "separate the elements of a list with commas, and end it with ]"
	}
	lines := strings.Split(above, "\n")
	for i := min(n, len(lines)) - 1; i >= 0; i-- {
		if openList.MatchString(lines[i]) {
			return fmt.Sprintf("end the list that begins in line %d with ]", i+1)
		}
	}
	return "end the list with ]"
}

var definedKey = regexp.MustCompile(`Key '(.*)' has already`)

// twice explains a key or a section that above, the lines before, has already.
func twice(above, line, message string) (why, hint string) {
	why, hint = "this is there twice", "remove one of the two"
	m := definedKey.FindStringSubmatch(message)
	if m == nil {
		return why, hint
	}
	path := strings.ReplaceAll(m[1], `"`, "")
	what, isSection := strconv.Quote(path), strings.HasPrefix(strings.TrimSpace(line), "[")
	if isSection {
		what = header(path)
	}
	why = what + " is in the file already"
	n := firstLine(above, path)
	if n > 0 {
		why = fmt.Sprintf("%s is in line %d already", what, n)
	}
	switch {
	case isSection && strings.HasPrefix(what, "[["):
		hint = "write " + what + " with two brackets on each side, once for each element"
	case isSection && n > 0:
		hint = fmt.Sprintf("move the keys below this header to line %d, and remove the header", n+1)
	}
	return why, hint
}

// firstLine returns the number of the line that has the key or the section, or 0.
func firstLine(above, path string) int {
	first := 0
	for found, e := range locate(above) {
		if plain(found) == path && !e.key.none() {
			first = max(first, 1+strings.Count(above[:e.key.start], "\n")) // in the last element of a list
		}
	}
	return first
}
