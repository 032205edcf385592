package test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"postern/test/kit"
)

// A clientState is the state of a session before the first line of a script is sent.
type clientState string

const (
	statePlain clientState = "plain" // the greeting of the STARTTLS port has been read
	stateFresh clientState = "fresh" // the greeting of the implicit TLS port has been read
	stateTLS   clientState = "tls"   // and EHLO has been sent
	stateUser  clientState = "user"  // and alice has logged in
)

// A codeSection is one section of a script: a list of command lines and the state
// in which they are sent. The comments in [readCodeScript] give the format.
type codeSection struct {
	file  string
	name  string
	each  bool // each line has its own session
	state clientState
	setup []codeSetup
	lines []codeLine
}

// A codeSetup is a command that precedes the lines of a section. Its reply is not
// compared; it only has to be positive, or negative if refused is set.
type codeSetup struct {
	command string
	refused bool
}

// A codeLine is one step of a section.
type codeLine struct {
	key    string // as written; " (2)" is appended to the second one of a session, and so on
	bytes  string // what is sent; with repeat above 1, a format with one %d
	repeat int    // how often it is sent
}

// readCodeScripts reads all scripts of a folder, ordered by file name.
func readCodeScripts(t *testing.T, dir string) []*codeSection {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	kit.Must(t, err)
	var all []*codeSection
	for _, file := range files {
		if filepath.Base(file) == differencesFile {
			continue
		}
		sections, err := readCodeScript(file)
		kit.Must(t, err)
		all = append(all, sections...)
	}
	if len(all) == 0 {
		t.Fatalf("%s has no scripts", dir)
	}
	return all
}

// readCodeScript reads one script. Empty lines and lines that begin with "#" are
// skipped; the others are:
//
//	[each NAME]        begins a section whose lines have a session each
//	[session NAME]     begins a section that is one session
//	@ state = STATE    a clientState; the default is "user"
//	@ after = COMMAND  a command that precedes the lines, and that is accepted
//	@ refused = COMMAND  the same, and it is refused
//	"..."              a Go string: a command line without its CRLF
//	raw "..."          a Go string that is sent as it is, and has one reply
//	repeat N FORMAT    N command lines, with %d numbered from 1
//	anything else      a command line without its CRLF
//
// In all of them {N*TEXT} means N copies of TEXT.
func readCodeScript(file string) ([]*codeSection, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var sections []*codeSection
	for i, line := range strings.Split(string(text), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if line[0] == '[' {
			s, err := newCodeSection(filepath.Base(file), line)
			if err != nil {
				return nil, fmt.Errorf("%s:%d: %w", file, i+1, err)
			}
			sections = append(sections, s)
			continue
		}
		if len(sections) == 0 {
			return nil, fmt.Errorf("%s:%d: expected a section, [each NAME] or [session NAME]", file, i+1)
		}
		if err := sections[len(sections)-1].read(line); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, i+1, err)
		}
	}
	return sections, checkNames(sections)
}

func newCodeSection(file, header string) (*codeSection, error) {
	kind, name, ok := strings.Cut(strings.TrimSuffix(header[1:], "]"), " ")
	if !ok || name == "" || kind != "each" && kind != "session" {
		return nil, fmt.Errorf("%q is neither [each NAME] nor [session NAME]", header)
	}
	return &codeSection{file: file, name: name, each: kind == "each", state: stateUser}, nil
}

func checkNames(sections []*codeSection) error {
	known := map[string]bool{}
	for _, s := range sections {
		if known[s.name] {
			return fmt.Errorf("%s: there are two sections %q", s.file, s.name)
		}
		known[s.name] = true
	}
	return nil
}

func (s *codeSection) read(line string) error {
	if option, ok := strings.CutPrefix(line, "@ "); ok {
		return s.option(option)
	}
	l := codeLine{key: line, repeat: 1}
	var err error
	switch {
	case line[0] == '"':
		l.bytes, err = strconv.Unquote(line)
		l.bytes += "\r\n"
	case strings.HasPrefix(line, "raw "):
		l.bytes, err = strconv.Unquote(line[4:])
	case strings.HasPrefix(line, "repeat "):
		var count string
		count, l.bytes, _ = strings.Cut(line[7:], " ")
		l.bytes += "\r\n"
		l.repeat, err = strconv.Atoi(count)
	default:
		l.bytes = line + "\r\n"
	}
	if err != nil {
		return fmt.Errorf("%q: %w", line, err)
	}
	l.bytes = expandCopies(l.bytes)
	return s.add(l)
}

func (s *codeSection) add(l codeLine) error {
	written := l.key
	for n := 2; slices.ContainsFunc(s.lines, func(o codeLine) bool { return o.key == l.key }); n++ {
		if s.each {
			return fmt.Errorf("%q is listed twice", written)
		}
		l.key = fmt.Sprintf("%s (%d)", written, n)
	}
	s.lines = append(s.lines, l)
	return nil
}

func (s *codeSection) option(text string) error {
	key, value, _ := strings.Cut(text, " = ")
	switch key {
	case "state":
		s.state = clientState(value)
		if !slices.Contains([]clientState{statePlain, stateFresh, stateTLS, stateUser}, s.state) {
			return fmt.Errorf("unknown state %q", value)
		}
	case "after", "refused":
		s.setup = append(s.setup, codeSetup{command: value, refused: key == "refused"})
	default:
		return fmt.Errorf("unknown option %q; allowed are state, after and refused", key)
	}
	return nil
}

var copies = regexp.MustCompile(`\{(\d+)\*([^{}]*)\}`)

// expandCopies replaces {N*TEXT} by N copies of TEXT.
func expandCopies(line string) string {
	return copies.ReplaceAllStringFunc(line, func(call string) string {
		parts := copies.FindStringSubmatch(call)
		n, err := strconv.Atoi(parts[1])
		if err != nil {
			return call
		}
		return strings.Repeat(parts[2], n)
	})
}

// differencesFile lists the lines at which postern differs on purpose.
const differencesFile = "differences.txt"

// A codeKey names one line of all scripts.
type codeKey struct{ file, section, line string }

// A codeDifference has the outcomes of one line at the two servers: see
// [codeSession.outcome].
type codeDifference struct{ postfix, postern string }

// readDifferences reads the list of differences. Its lines have five columns with
// tabs between them: file, section, line, the outcome of Postfix, and that of
// postern. A line that begins with "= " gives the reason for all that follow.
func readDifferences(file string) (map[codeKey]codeDifference, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	found := map[codeKey]codeDifference{}
	reason := ""
	for i, line := range strings.Split(string(text), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if rest, ok := strings.CutPrefix(line, "= "); ok {
			reason = rest
			continue
		}
		key, d, err := parseDifference(line)
		if _, twice := found[key]; err == nil && twice {
			err = errors.New("listed twice")
		}
		if err == nil && reason == "" {
			err = errors.New("no reason is given before this line")
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, i+1, err)
		}
		found[key] = d
	}
	return found, nil
}

func parseDifference(line string) (codeKey, codeDifference, error) {
	columns := strings.Split(line, "\t")
	if len(columns) < 5 {
		return codeKey{}, codeDifference{}, fmt.Errorf("%d columns, want 5: file, section, line, Postfix, postern", len(columns))
	}
	n := len(columns)
	return codeKey{columns[0], columns[1], strings.Join(columns[2:n-2], "\t")}, // the line itself may have tabs
		codeDifference{postfix: columns[n-2], postern: columns[n-1]}, nil
}

func (d codeKey) String() string { return d.file + "\t" + d.section + "\t" + d.line }
