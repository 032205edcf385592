package manual

import (
	"fmt"
	"regexp"
	"strings"
)

// The lines of config.toml.example: a rule with a title begins a section, "# " is text,
// a "#" directly before a setting is an example of one without a default.
var (
	ruleLine    = regexp.MustCompile(`^# -{20,} (.+)$`)
	tableLine   = regexp.MustCompile(`^#?(\[.+\])$`)
	settingLine = regexp.MustCompile(`^#?([a-z_.]+) = (.*)$`)
)

// Example adds the settings of config.toml.example to the page: a section for each title,
// a subsection for each table, a tagged paragraph for each key with its default. It
// returns an error with the number of a line that it does not understand.
func (p *Page) Example(text string) error {
	var e exampleWriter
	e.page = p
	for i, line := range strings.Split(text, "\n") {
		if err := e.line(line); err != nil {
			return fmt.Errorf("line %d: %w", i+1, err)
		}
	}
	e.flush()
	return nil
}

// An exampleWriter has the comment and the settings that were read and not yet written.
type exampleWriter struct {
	page     *Page
	comment  []string
	settings []string
}

func (e *exampleWriter) line(line string) error {
	switch {
	case line == "":
		e.flush()
	case ruleLine.MatchString(line):
		e.flush()
		e.page.Section(ruleLine.FindStringSubmatch(line)[1])
	case line == "#" || strings.HasPrefix(line, "# "):
		if len(e.settings) > 0 {
			e.flush()
		}
		e.comment = append(e.comment, strings.TrimPrefix(strings.TrimPrefix(line, "#"), " "))
	case tableLine.MatchString(line), settingLine.MatchString(line):
		e.settings = append(e.settings, strings.TrimPrefix(line, "#"))
	default:
		return fmt.Errorf("%q is neither a comment nor a setting on one line", line)
	}
	return nil
}

// flush writes what was collected. One key, after its table if that begins here, is a
// tagged paragraph with the comment; a table without keys is a heading. More settings are
// an example, after their comment.
func (e *exampleWriter) flush() {
	comment, settings := strings.Join(e.comment, "\n"), e.settings
	e.comment, e.settings = nil, nil
	if len(settings) > 0 && tableLine.MatchString(settings[0]) && len(settings) <= 2 {
		e.page.Subsection(settings[0])
		settings = settings[1:]
	}
	if len(settings) == 1 {
		if found := settingLine.FindStringSubmatch(settings[0]); found != nil {
			e.page.Tagged(found[1], " = "+found[2], comment)
			return
		}
	}
	e.page.Text(comment)
	if len(settings) > 0 {
		e.page.Literal(strings.Join(settings, "\n"))
	}
}
