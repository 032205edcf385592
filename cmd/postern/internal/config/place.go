package config

import (
	"fmt"
	"strings"
)

// A span is a part of the file, from one offset up to another. The zero span is none.
type span struct{ start, end int }

func (s span) none() bool { return s.end == 0 }

// of returns the text of s.
func (s span) of(text string) string { return text[s.start:s.end] }

// An entry is the place of a key and the place of its value. A table has only a
// key, an element of an array only a value.
type entry struct{ key, value span }

// A placeMap has the places of the keys, by paths such as listener[1].address or
// relay.next_hops[0].
//
// The TOML library reports the places of keys while it decodes, but not those inside
// an array of tables. Most mistakes are found after decoding. Therefore the file is
// scanned a second time.
type placeMap map[string]entry

// find returns the place of path, or of the nearest table that contains it.
func (m placeMap) find(path string) entry {
	for path != "" {
		if e, ok := m[path]; ok {
			return e
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return entry{}
}

// locate scans a file that has been parsed without an error. It skips what it does
// not understand.
func locate(text string) placeMap {
	s := &scanner{text: text, found: make(placeMap), arrays: make(map[string]int)}
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
		s.advance(start)
	}
	return s.found
}

// A scanner scans the text of a TOML file.
type scanner struct {
	text   string
	pos    int
	table  string         // path of the table that pairs belong to
	arrays map[string]int // number of [[array]] headers so far
	found  placeMap
}

// header reads the rest of [table] or [[array]].
func (s *scanner) header(array bool) {
	start := s.pos
	parts := s.key()
	name := span{start, s.pos}
	s.accept("]")
	s.accept("]")
	path := ""
	for i, part := range parts {
		path = join(path, part)
		if array && i == len(parts)-1 {
			s.note(path, name)
			s.arrays[path]++
		}
		if n := s.arrays[path]; n > 0 {
			path = fmt.Sprintf("%s[%d]", path, n-1)
		}
	}
	s.table = path
	s.note(path, name)
}

// pair reads key = value inside the table at path.
func (s *scanner) pair(path string) {
	start := s.pos
	for _, part := range s.key() {
		path = join(path, part)
	}
	key := span{start, s.pos}
	s.skipSpace()
	if !s.accept("=") {
		return
	}
	s.skipSpace()
	s.found[path] = entry{key: key, value: s.value(path)}
}

// note records the first place of a table.
func (s *scanner) note(path string, name span) {
	if _, ok := s.found[path]; !ok {
		s.found[path] = entry{key: name}
	}
}

// key reads the parts of a dotted key, and no space after it.
func (s *scanner) key() (parts []string) {
	for {
		parts = append(parts, s.keyPart())
		end := s.pos
		s.skipSpace()
		if !s.accept(".") {
			s.pos = end
			return parts
		}
		s.skipSpace()
	}
}

func (s *scanner) keyPart() string {
	start := s.pos
	if s.quoted(`"`, true) || s.quoted(`'`, false) {
		return strings.Trim(s.text[start:s.pos], `"'`)
	}
	s.skip(bareKey)
	return s.text[start:s.pos]
}

// value reads any value and returns its place.
func (s *scanner) value(path string) span {
	start := s.pos
	switch {
	case s.quoted(`"""`, true), s.quoted(`'''`, false), s.quoted(`"`, true), s.quoted(`'`, false):
	case s.accept("["):
		s.each("]", func(i int) { s.element(fmt.Sprintf("%s[%d]", path, i)) })
	case s.accept("{"):
		s.each("}", func(int) { s.pair(path) })
	default:
		s.skip(func(b byte) bool { return !strings.ContainsRune(",]}#\r\n", rune(b)) })
		return span{start, start + len(strings.TrimRight(s.text[start:s.pos], " \t"))}
	}
	return span{start, s.pos}
}

// element reads one value of an array.
func (s *scanner) element(path string) {
	s.found[path] = entry{value: s.value(path)}
}

// each reads the elements of an array or an inline table, and its end.
func (s *scanner) each(end string, element func(i int)) {
	for i := 0; ; i++ {
		for s.skipBlank(); s.accept(","); s.skipBlank() {
		}
		if s.pos >= len(s.text) || s.accept(end) {
			return
		}
		start := s.pos
		element(i)
		s.advance(start)
	}
}

// advance skips one byte if nothing was read since start: text that is not TOML must
// not stop the scan.
func (s *scanner) advance(start int) {
	if s.pos == start {
		s.pos++
	}
}

// quoted skips a string in the given quotes, if one begins here.
func (s *scanner) quoted(quote string, escapes bool) bool {
	if !s.accept(quote) {
		return false
	}
	for s.pos < len(s.text) && !s.accept(quote) {
		if escapes && s.accept(`\`) && s.pos >= len(s.text) {
			break
		}
		s.pos++
	}
	for len(quote) == 3 && s.accept(quote[:1]) { // """a string may end with a quote""""
	}
	return true
}

func (s *scanner) accept(prefix string) bool {
	if !strings.HasPrefix(s.text[s.pos:], prefix) {
		return false
	}
	s.pos += len(prefix)
	return true
}

func (s *scanner) skip(in func(byte) bool) {
	for s.pos < len(s.text) && in(s.text[s.pos]) {
		s.pos++
	}
}

func (s *scanner) skipSpace() { s.skip(func(b byte) bool { return b == ' ' || b == '\t' }) }

// skipBlank skips spaces, line ends and comments.
func (s *scanner) skipBlank() {
	s.skip(func(b byte) bool { return strings.IndexByte(" \t\r\n", b) >= 0 })
	for s.accept("#") {
		s.skip(func(b byte) bool { return b != '\n' })
		s.skip(func(b byte) bool { return strings.IndexByte(" \t\r\n", b) >= 0 })
	}
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
