package pemfile

import (
	"encoding/base64"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// marker matches the first and the last line of a block, and what people make of them:
// other numbers of dashes, and the dashes of word processors.
var marker = regexp.MustCompile(`([-\x{2010}-\x{2015}\x{2212}]+)( ?)(BEGIN|END) ([A-Z0-9][A-Za-z0-9#]*(?: [A-Za-z0-9#]+)*)( ?)([-\x{2010}-\x{2015}\x{2212}]{0,5})`)

// known matches the labels of what a marker with a mistake must have to be one; anything else
// is text between blocks.
var known = regexp.MustCompile(`(CERTIFICATE|KEY|REQUEST|PARAMETERS|PKCS7|CMS|CRL)$`)

const (
	dashes = "-----"
	mark   = "\ufeff" // byte order mark
)

// A scanned is the result of scan.
type scanned struct {
	blocks   []Block
	repaired []string
	glued    []string // lines of each BEGIN after another text
	indented []string // and after blanks
	err      error
}

// scan returns all blocks of text. It stops at the first one that it does not understand.
func scan(text string) (s scanned) {
	text = s.repairText(text)
	at, line := 0, 1 // line is that of text[at]
	advance := func(to int) {
		line += strings.Count(text[at:to], "\n")
		at = to
	}
	var begin *Block
	bodyAt := 0
	for _, m := range marker.FindAllStringSubmatchIndex(text, -1) {
		advance(m[0])
		word, label := text[m[6]:m[7]], text[m[8]:m[9]]
		if before, after := text[m[2]:m[5]], text[m[10]:m[13]]; before != dashes || after != dashes {
			if !known.MatchString(label) || before == "-" {
				continue // text between blocks
			}
			s.err = markerError(before, after, word, line)
			return s
		}
		switch {
		case word == "BEGIN" && begin != nil:
			s.err = fmt.Errorf("line %d: the block %q has no line \"-----END %s-----\" before the next one begins in line %d; copy the whole block again",
				begin.Line, begin.Type, begin.Type, line)
		case word == "BEGIN":
			s.noteGlued(text, m[0], line)
			begin, bodyAt = &Block{Type: label, Line: line}, m[1]
		case begin == nil:
			s.err = fmt.Errorf("line %d: \"-----END %s-----\" without a line \"-----BEGIN %s-----\" before it; copy the whole block again", line, label, label)
		case begin.Type != label:
			s.err = fmt.Errorf("line %d: the block %q ends as %q in line %d; write the same name into both lines", begin.Line, begin.Type, label, line)
		default:
			s.err = begin.decode(text[bodyAt:m[0]])
			s.blocks = append(s.blocks, *begin)
			begin = nil
		}
		if s.err != nil {
			return s
		}
	}
	if len(s.indented) > 0 {
		s.repaired = append(s.repaired, fmt.Sprintf("%s: blanks before BEGIN, which other programs do not accept; remove them", lineList(s.indented)))
	}
	if len(s.glued) > 0 {
		s.repaired = append(s.repaired, fmt.Sprintf("%s: the line end before BEGIN is missing, which other programs do not accept; insert it", lineList(s.glued)))
	}
	if begin != nil {
		s.err = fmt.Errorf("line %d: the block %q has no line \"-----END %s-----\", so the file is incomplete; copy the whole file again",
			begin.Line, begin.Type, begin.Type)
	}
	return s
}

// lineList returns "line 1" or "lines 1, 2" for up to five lines.
func lineList(lines []string) string {
	const shown = 5
	if len(lines) == 1 {
		return "line " + lines[0]
	}
	if len(lines) > shown {
		return fmt.Sprintf("lines %s and %d more", strings.Join(lines[:shown], ", "), len(lines)-shown)
	}
	return "lines " + strings.Join(lines, ", ")
}

// repairText repairs what concerns the whole text.
func (s *scanned) repairText(text string) string {
	if strings.Contains(text, mark) {
		s.repaired = append(s.repaired, "it has a byte order mark, which other programs do not accept; save it as UTF-8 without BOM")
		text = strings.ReplaceAll(text, mark, "")
	}
	text = strings.ReplaceAll(text, "\r\n", "\n")
	text = strings.ReplaceAll(text, "\r", "\n")
	if strings.Contains(text, `-----\n`) {
		s.repaired = append(s.repaired, `it has \n as two characters instead of line ends; write it with printf '%b'`)
		text = strings.NewReplacer(`\r\n`, "\n", `\n`, "\n").Replace(text)
	}
	return text
}

// noteGlued notes a BEGIN that is not at the beginning of its line.
func (s *scanned) noteGlued(text string, at, line int) {
	before := text[strings.LastIndexByte(text[:at], '\n')+1 : at]
	switch {
	case before == "":
	case strings.TrimSpace(before) == "":
		s.indented = append(s.indented, strconv.Itoa(line))
	default:
		s.glued = append(s.glued, strconv.Itoa(line))
	}
}

// markerError returns the error for a BEGIN or END that has not five dashes on each side.
func markerError(before, after, word string, line int) error {
	for _, side := range []string{before, after} {
		switch {
		case side == dashes:
		case strings.Trim(side, "- ") != "":
			return fmt.Errorf("line %d: the dashes at %s were replaced by other characters, as word processors do; copy the file again without one", line, word)
		case strings.Contains(side, " "):
			return fmt.Errorf("line %d: a blank between %s and the dashes; remove it", line, word)
		default:
			return fmt.Errorf("line %d: %s has %d dashes on one side; write 5 on each", line, word, len(side))
		}
	}
	return nil
}

// decode reads the headers and the base64 of a block. Each line must be valid.
func (b *Block) decode(body string) error {
	var data strings.Builder
	lines := strings.Split(body, "\n")
	headers := true
	for i, l := range lines {
		l = strings.TrimSpace(l)
		if headers && strings.Contains(l, ":") {
			b.encrypted = b.encrypted || strings.HasPrefix(l, "Proc-Type:") && strings.HasSuffix(l, "ENCRYPTED")
			continue
		}
		headers = headers && (l == "" || i == 0)
		for _, part := range strings.Fields(l) {
			if strings.ContainsFunc(part, func(r rune) bool { return !isBase64(r) }) {
				return fmt.Errorf("line %d: not base64, so the block %q from line %d is damaged; copy it again from its source", b.Line+i, b.Type, b.Line)
			}
			data.WriteString(part)
		}
	}
	der, err := base64.StdEncoding.DecodeString(data.String())
	if err != nil || len(der) == 0 {
		return fmt.Errorf("line %d: the block %q is incomplete or has lost characters; copy it again from its source", b.Line, b.Type)
	}
	b.DER = der
	return nil
}

func isBase64(r rune) bool {
	return r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '+' || r == '/' || r == '='
}
