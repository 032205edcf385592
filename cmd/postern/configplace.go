package main

import (
	"fmt"
	"strings"
)

// A place is a stretch of one line of the file. Lines and columns count from
// 1, columns and widths in bytes. The zero place is nowhere.
type place struct{ line, col, width int }

// An entry says where a key and its value stand. A table has no value.
type entry struct{ key, value place }

// A placeMap finds what stands where, by paths such as listener[1].address or
// relay.next_hops[0].
//
// The decoder reports where a key stands, but not one inside an array of
// tables, and nothing once the file is read. Most mistakes are noticed later
// than that, so the file is looked through once more.
type placeMap map[string]entry

// find returns where path stands, or else the nearest thing around it.
func (m placeMap) find(path string) entry {
	for path != "" {
		if e, ok := m[path]; ok {
			return e
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return entry{}
}

// locate looks through a file that has been parsed without an error. What it
// does not understand it steps over.
func locate(text string) placeMap {
	s := &scanner{text: text, line: 1, found: make(placeMap), elements: make(map[string]int)}
	for s.skipBlank(); s.pos < len(s.text); s.skipBlank() {
		start := s.pos
		switch {
		case s.accept("[["):
			s.header(true)
		case s.accept("["):
			s.header(false)
		default:
			s.pair(s.table)
		}
		s.unstick(start)
	}
	return s.found
}

// A scanner walks over the text of a TOML file.
type scanner struct {
	text      string
	pos       int
	line      int // of pos, from 1
	lineStart int // offset
	table     string
	elements  map[string]int // how many of each [[array]] have been seen
	found     placeMap
}

// header reads the rest of [table] or [[array]].
func (s *scanner) header(array bool) {
	start := s.mark()
	parts := s.key()
	width := s.pos - start.pos
	s.accept("]")
	s.accept("]")
	path := ""
	for i, part := range parts {
		path = join(path, part)
		n := s.elements[path]
		if array && i == len(parts)-1 {
			s.elements[path] = n + 1
			s.note(path, entry{key: start.wide(width)})
			n++
		}
		if n > 0 {
			path = fmt.Sprintf("%s[%d]", path, n-1)
		}
	}
	s.table = path
	s.note(path, entry{key: start.wide(width)})
}

// pair reads key = value inside the table at path.
func (s *scanner) pair(path string) {
	start := s.mark()
	for _, part := range s.key() {
		path = join(path, part)
	}
	key := start.wide(s.pos - start.pos)
	s.skipSpace()
	if !s.accept("=") {
		return
	}
	s.skipSpace()
	s.note(path, entry{key: key}) // before what it holds
	s.found[path] = entry{key: key, value: s.value(path)}
}

// note keeps the first place of a path.
func (s *scanner) note(path string, e entry) {
	if _, ok := s.found[path]; !ok {
		s.found[path] = e
	}
}

// key reads the parts of a dotted key.
func (s *scanner) key() (parts []string) {
	for {
		s.skipSpace()
		start := s.pos
		switch {
		case s.quoted(`"`, true), s.quoted(`'`, false):
			parts = append(parts, s.text[start+1:max(s.pos-1, start+1)])
		default:
			s.advance(span(s.text[s.pos:], bareKey))
			parts = append(parts, s.text[start:s.pos])
		}
		end := *s
		s.skipSpace()
		if !s.accept(".") {
			s.pos = end.pos // blanks behind a key are not part of it
			return parts
		}
	}
}

// value reads any value and says where it stands.
func (s *scanner) value(path string) place {
	start := s.mark()
	switch {
	case s.quoted(`"""`, true), s.quoted(`'''`, false), s.quoted(`"`, true), s.quoted(`'`, false):
	case s.accept("["):
		s.each("]", func(i int) { s.element(fmt.Sprintf("%s[%d]", path, i)) })
	case s.accept("{"):
		s.each("}", func(int) { s.pair(path) })
	default:
		n := strings.IndexAny(s.text[s.pos:]+"\n", ",]}#\n")
		s.advance(len(strings.TrimRight(s.text[s.pos:s.pos+n], " \t\r")))
	}
	if s.line != start.line { // the rest of its first line
		n := strings.IndexByte(s.text[start.pos:], '\n')
		return start.wide(len(strings.TrimRight(s.text[start.pos:start.pos+n], "\r")))
	}
	return start.wide(s.pos - start.pos)
}

// element reads one value of an array.
func (s *scanner) element(path string) {
	s.found[path] = entry{value: s.value(path)}
}

// each reads the elements of an array or an inline table and steps over its end.
func (s *scanner) each(end string, element func(i int)) {
	for i := 0; ; i++ {
		for s.skipBlank(); s.accept(","); s.skipBlank() {
		}
		if s.pos >= len(s.text) || s.accept(end) {
			return
		}
		start := s.pos
		element(i)
		s.unstick(start)
	}
}

// unstick makes sure of an end where something is not TOML after all.
func (s *scanner) unstick(start int) {
	if s.pos == start {
		s.advance(1)
	}
}

// quoted steps over a string in the given quotes, if one begins here.
func (s *scanner) quoted(quote string, escapes bool) bool {
	if !s.accept(quote) {
		return false
	}
	for s.pos < len(s.text) && !strings.HasPrefix(s.text[s.pos:], quote) {
		if escapes && s.text[s.pos] == '\\' {
			s.advance(1)
		}
		s.advance(1)
	}
	s.accept(quote)
	for len(quote) == 3 && s.accept(quote[:1]) { // """ends with a quote""""
	}
	return true
}

func (s *scanner) accept(prefix string) bool {
	if !strings.HasPrefix(s.text[s.pos:], prefix) {
		return false
	}
	s.advance(len(prefix))
	return true
}

func (s *scanner) skipSpace() {
	s.advance(span(s.text[s.pos:], func(b byte) bool { return b == ' ' || b == '\t' }))
}

// skipBlank steps over blanks, line ends and comments.
func (s *scanner) skipBlank() {
	for s.pos < len(s.text) && strings.IndexByte(" \t\r\n#", s.text[s.pos]) >= 0 {
		if s.text[s.pos] == '#' {
			s.advance(strings.IndexByte(s.text[s.pos:]+"\n", '\n'))
			continue
		}
		s.advance(1)
	}
}

func (s *scanner) advance(n int) {
	for ; n > 0 && s.pos < len(s.text); n-- {
		if s.text[s.pos] == '\n' {
			s.line, s.lineStart = s.line+1, s.pos+1
		}
		s.pos++
	}
}

// A mark is where the scanner has been.
type mark struct{ pos, line, col int }

func (s *scanner) mark() mark { return mark{s.pos, s.line, s.pos - s.lineStart + 1} }

func (m mark) wide(width int) place { return place{m.line, m.col, width} }

// span counts the bytes at the beginning of text that are in the set.
func span(text string, in func(byte) bool) int {
	n := 0
	for n < len(text) && in(text[n]) {
		n++
	}
	return n
}

func bareKey(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b == '_' || b == '-'
}

// join appends a key to a path.
func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}
