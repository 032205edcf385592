// Package manual writes manual pages, in the macros of man(7): first a page is put
// together from headings, paragraphs, tagged paragraphs and literal lines (this file),
// then postern.toml(5) is made from config.toml.example (example.go). The pages of the
// commands are put together by the command "postern manual", which knows the commands.
//
// A page has no date, so that the same source always gives the same bytes.
package manual

import (
	"fmt"
	"strings"
)

// A Page is a manual page. The zero value is not usable: call NewPage.
type Page struct {
	out strings.Builder
}

// NewPage returns a page that has its header and the section NAME. name is the name of
// the page as it is looked up, such as "postern-check"; section is its number; source
// names the program and its version; summary is the line that apropos(1) prints.
func NewPage(name string, section int, source, summary string) *Page {
	p := new(Page)
	fmt.Fprintf(&p.out, ".TH %s %d \"\" %s %s\n", quote(strings.ToUpper(name)), section, quote(source), quote("postern manual"))
	p.out.WriteString(".nr HY 0\n.ad l\n") // options and values are not hyphenated
	p.Section("NAME")
	fmt.Fprintf(&p.out, "%s \\- %s\n", escape(name), escape(summary))
	return p
}

// String returns the page.
func (p *Page) String() string { return p.out.String() }

// Section begins a section.
func (p *Page) Section(heading string) {
	fmt.Fprintf(&p.out, ".SH %s\n", quote(strings.ToUpper(heading)))
}

// Subsection begins a part of a section.
func (p *Page) Subsection(heading string) { fmt.Fprintf(&p.out, ".SS %s\n", quote(heading)) }

// Bold writes a line in bold, such as a command line.
func (p *Page) Bold(line string) { fmt.Fprintf(&p.out, "\\fB%s\\fR\n", escape(line)) }

// Text writes paragraphs, which are separated by empty lines. The lines of a paragraph
// are filled. A paragraph with indented lines or columns is printed as it is.
func (p *Page) Text(text string) {
	for _, paragraph := range paragraphs(text) {
		p.out.WriteString(".PP\n")
		p.body(paragraph)
	}
}

// Tagged writes a paragraph with a tag in bold, such as an option, and what follows it
// in plain letters. The text may have several paragraphs.
func (p *Page) Tagged(tag, after, text string) {
	fmt.Fprintf(&p.out, ".TP\n\\fB%s\\fR%s\n", escape(tag), escape(after))
	for i, paragraph := range paragraphs(text) {
		if i > 0 {
			p.out.WriteString(".IP\n")
		}
		p.body(paragraph)
	}
}

// Literal writes lines as they are, in a fixed font.
func (p *Page) Literal(text string) {
	p.out.WriteString(".PP\n.EX\n")
	for line := range strings.SplitSeq(strings.Trim(text, "\n"), "\n") {
		p.out.WriteString(escape(line) + "\n")
	}
	p.out.WriteString(".EE\n")
}

// body writes one paragraph without its macro. Some lines of the example stay lines of
// their own.
func (p *Page) body(paragraph string) {
	lines := strings.Split(paragraph, "\n")
	if laidOut(lines) {
		p.out.WriteString(".EX\n")
		for _, line := range lines {
			p.out.WriteString(escape(line) + "\n")
		}
		p.out.WriteString(".EE\n")
		return
	}
	for i, line := range lines {
		if i > 0 && ownLine(line) {
			p.out.WriteString(".br\n")
		}
		p.out.WriteString(escape(line) + "\n")
	}
}

// laidOut reports whether the position of the words has a meaning.
func laidOut(lines []string) bool {
	for _, line := range lines {
		if strings.HasPrefix(line, " ") || strings.Contains(strings.ReplaceAll(line, ".  ", ". "), "  ") {
			return true
		}
	}
	return false
}

// ownLine reports whether a line names the options of another program, or when a change
// takes effect.
func ownLine(line string) bool {
	for _, start := range []string{"Postfix:", "smtpd.conf:", "A change needs"} {
		if strings.HasPrefix(line, start) {
			return true
		}
	}
	return false
}

// paragraphs splits a text at its empty lines. Indented lines are a paragraph of their
// own, so that the text before and after them is filled.
func paragraphs(text string) []string {
	var all, now []string
	end := func() {
		if len(now) > 0 {
			all = append(all, strings.Join(now, "\n"))
			now = nil
		}
	}
	for line := range strings.SplitSeq(text, "\n") {
		indented := strings.HasPrefix(line, " ")
		if line == "" || len(now) > 0 && indented && !strings.HasPrefix(now[len(now)-1], " ") && !laidOut(now) {
			end()
		} else if len(now) > 0 && !indented && strings.HasPrefix(now[0], " ") {
			end()
		}
		if line != "" {
			now = append(now, strings.TrimRight(line, " "))
		}
	}
	end()
	return all
}

// escape makes a line of text harmless for troff: a backslash is printed, a hyphen can
// be copied as a minus, and a period or quote at the beginning begins no macro.
func escape(line string) string {
	line = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(line)
	if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
		return `\&` + line
	}
	return line
}

// quote returns text as one argument of a macro.
func quote(text string) string { return `"` + strings.ReplaceAll(escape(text), `"`, `""`) + `"` }
