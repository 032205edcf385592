package check

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"postern/internal/text"
)

// A Level says what an entry means for the set-up.
type Level string

const (
	OK   Level = "ok"   // works
	Note Level = "note" // works; worth knowing
	Warn Level = "warn" // works, but will fail, or is less secure or slower than it should be
	Fail Level = "FAIL" // the server cannot start, or some client or message will be refused
)

// An Entry is the result for one part of the set-up. The text of a Warn and of a Fail has
// the cause and the next step.
type Entry struct {
	Level Level  `json:"level"`
	Part  string `json:"part"`
	Text  string `json:"text"`
}

// A Report prints entries: as text, each at once, or as one JSON object at the end. Its
// methods must not be called concurrently.
type Report struct {
	out     io.Writer
	json    bool
	entries []Entry
}

// NewReport returns a report that writes to out, as JSON if asJSON is set.
func NewReport(out io.Writer, asJSON bool) *Report { return &Report{out: out, json: asJSON} }

func (r *Report) OK(part, text string)        { r.add(OK, part, text) }
func (r *Report) Note(part, text string)      { r.add(Note, part, text) }
func (r *Report) Warn(part, text string)      { r.add(Warn, part, text) }
func (r *Report) Fail(part string, err error) { r.add(Fail, part, err.Error()) }

// Result adds an OK entry with the text, or a Fail entry with the error, if there is one.
func (r *Report) Result(part, text string, err error) {
	if err != nil {
		r.Fail(part, err)
		return
	}
	r.OK(part, text)
}

// Has reports whether there is an entry of the level.
func (r *Report) Has(level Level) bool {
	return slices.ContainsFunc(r.entries, func(e Entry) bool { return e.Level == level })
}

// add leaves out an entry that is there already, as listeners with sections of their own
// can have the same certificate or table. Text of other servers, such as the names in their
// certificates, must not control a terminal.
func (r *Report) add(level Level, part, content string) {
	content = text.Replace(content, func(r rune) bool { return r != '\n' && r != '\t' && text.Unprintable(r) }, utf8.RuneError)
	e := Entry{level, part, content}
	if slices.Contains(r.entries, e) {
		return
	}
	r.entries = append(r.entries, e)
	if !r.json {
		const indent = 21 // the width of the first two columns
		fmt.Fprintf(r.out, "%-4s  %-13s  %s\n", level, part, strings.ReplaceAll(content, "\n", "\n"+strings.Repeat(" ", indent)))
	}
}

// Close writes the JSON object: "ok", which is false if an entry is a Fail, and "entries".
func (r *Report) Close() error {
	if !r.json {
		return nil
	}
	e := json.NewEncoder(r.out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(struct {
		OK      bool    `json:"ok"`
		Entries []Entry `json:"entries"`
	}{!r.Has(Fail), r.entries})
}
