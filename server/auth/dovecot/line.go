package dovecot

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Whoever sends a longer line loses the connection, on both sides. Until
// version 1.1 Dovecot's own bound was half of it.
const (
	maxLine    = 16384 // bytes, with the line feed
	maxOldLine = 8192
)

// errProtocol is what everything is that does not fit the protocol. The
// connection ends with it, since nothing on it can be believed any more.
var errProtocol = errors.New("not Dovecot's authentication protocol")

// A lineReader reads lines of at most maxLine bytes.
type lineReader struct{ in *bufio.Reader }

func newLineReader(in io.Reader) lineReader { return lineReader{bufio.NewReaderSize(in, maxLine)} }

// next returns the fields of the next line. Half a line at the end is none.
func (r lineReader) next() ([]string, error) {
	line, err := r.in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, fmt.Errorf("%w: a line longer than %d bytes", errProtocol, maxLine)
	}
	if err != nil {
		return nil, err
	}
	return splitLine(line[:len(line)-1]), nil
}

// splitLine takes a line apart.
func splitLine(line []byte) []string {
	var fields []string
	for field := range bytes.SplitSeq(line, []byte{'\t'}) {
		fields = append(fields, unescape(string(field)))
	}
	return fields
}

// The characters that would end a field or a line, and what stands for them
// after the escape character.
var escaper = strings.NewReplacer("\x00", "\x010", "\x01", "\x011", "\t", "\x01t", "\r", "\x01r", "\n", "\x01l")

func escape(s string) string { return escaper.Replace(s) }

func unescape(s string) string {
	if !strings.Contains(s, "\x01") {
		return s
	}
	var plain strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\x01' {
			plain.WriteByte(s[i])
			continue
		}
		if i++; i < len(s) {
			plain.WriteByte(unescaped(s[i]))
		}
	}
	return plain.String()
}

func unescaped(c byte) byte {
	switch c {
	case '0':
		return 0
	case '1':
		return '\x01'
	case 't':
		return '\t'
	case 'r':
		return '\r'
	case 'l':
		return '\n'
	}
	return c
}

// The answers to an exchange.
const (
	verbOK   = "OK"
	verbCont = "CONT"
	verbFail = "FAIL"
)

// An answer is what Dovecot says to one message of one exchange.
type answer struct {
	verb   string
	id     uint32
	data   []byte // CONT: the challenge; OK: the last message for the client, or nil
	params params
}

// parseAnswer reads a line that begins with one of the three verbs.
func parseAnswer(fields []string) (answer, error) {
	if len(fields) < 2 {
		return answer{}, fmt.Errorf("%w: %s without a number", errProtocol, fields[0])
	}
	id, err := strconv.ParseUint(fields[1], 10, 32)
	if err != nil {
		return answer{}, fmt.Errorf("%w: %s with a number that is none", errProtocol, fields[0])
	}
	a := answer{verb: fields[0], id: uint32(id), params: fields[2:]}
	encoded, present := a.params.get("resp")
	switch a.verb {
	case verbCont:
		if len(fields) < 3 {
			return answer{}, fmt.Errorf("%w: CONT without data", errProtocol)
		}
		encoded, present = fields[2], true
	case verbFail:
		present = false
	}
	if present {
		a.data, err = base64.StdEncoding.DecodeString(encoded)
	}
	if err != nil {
		return answer{}, fmt.Errorf("%w: %s with data that is not base64", errProtocol, a.verb)
	}
	return a, nil
}

// params are the optional parameters of a line: "name" or "name=value".
type params []string

// get returns the value of the first parameter of that name.
func (p params) get(name string) (value string, ok bool) {
	for _, one := range p {
		if n, v, _ := strings.Cut(one, "="); n == name {
			return v, true
		}
	}
	return "", false
}

func (p params) has(name string) bool {
	_, ok := p.get(name)
	return ok
}
