package sign

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"iter"
	"strings"

	"postern/relay/message"
)

// oversigned are the names of RFC 6376, section 5.4.1, that mail clients write, and those of
// MIME. Fields that hosts add on the way can be added, and so can Sender and the list
// fields, which mailing lists set.
var oversigned = [...]string{
	"From", "To", "Cc", "Subject", "Date", "Message-ID",
	"Reply-To", "In-Reply-To", "References",
	"MIME-Version", "Content-Type", "Content-Transfer-Encoding",
	"Content-ID", "Content-Description", "Content-Disposition",
}

// The bounds of what is signed.
const (
	// maxNames bounds h=, which go-msgauth writes on one line (RFC 5322, section 2.1.1: 998
	// bytes).
	maxNames = 900

	// maxField bounds a field, in bytes. Postfix cuts longer ones off after a line
	// (header_size_limit), and a signature over what it cuts off would not verify.
	maxField = 102400

	// maxLines bounds a field, in lines. An address list of maxField bytes with one address
	// on each line has about 5,000.
	maxLines = 10000

	// maxWords bounds all signed fields together, in words between blanks: go-msgauth uses
	// about 100 bytes of memory for each.
	maxWords = 20000
)

// A header is the signed part of a message's header.
type header struct {
	fields []message.Field // in the order of the message
	names  []string        // for h=
}

// headerOf returns the fields of m that are signed. h= has each name once for every field of
// that name in m, and once more (RFC 6376, section 8.15).
func headerOf(m *message.Message) (*header, error) {
	h := &header{}
	var counts [len(oversigned)]int
	words := 0
	for f := range m.Fields() {
		i := signedName(f)
		if i < 0 {
			continue
		}
		counts[i]++
		switch {
		case len(f.Raw) > maxField:
			return nil, unsignable(fmt.Sprintf("a field %s of %d bytes; at most %d are signed", oversigned[i], len(f.Raw), maxField))
		case bytes.Count(f.Raw, newline) > maxLines:
			return nil, unsignable(fmt.Sprintf("a field %s of %d lines; at most %d are signed", oversigned[i], bytes.Count(f.Raw, newline), maxLines))
		}
		if words += countWords(f.Value()); words > maxWords {
			return nil, unsignable(fmt.Sprintf("more than %d words in the fields to sign", maxWords))
		}
		h.fields = append(h.fields, f)
	}
	size := 0
	for i, name := range oversigned {
		size += (counts[i] + 1) * (len(name) + len(":"))
		if size > maxNames {
			return nil, unsignable(fmt.Sprintf("%d fields %s", counts[i], name))
		}
		for range counts[i] + 1 {
			h.names = append(h.names, strings.ToLower(name))
		}
	}
	return h, nil
}

// signedName returns the index of the field's name in oversigned, or -1.
func signedName(f message.Field) int {
	for i, name := range oversigned {
		if f.Is(name) {
			return i
		}
	}
	return -1
}

// writeTo writes the header in the form of relaxed canonicalization (RFC 6376, section
// 3.4.2): a field on one line, with one space for each run of blanks. go-msgauth brings it
// into this form again, which changes nothing, but takes time and memory that grow with the
// square of the number of lines. The signature is that of the fields as they are folded in
// the message.
func (h *header) writeTo(to io.Writer) error {
	w := bufio.NewWriter(to)
	for _, f := range h.fields {
		// Write and WriteByte return the error of Flush, too.
		_, _ = w.WriteString(strings.ToLower(f.Name))
		_ = w.WriteByte(':')
		first := true
		for word := range words(f.Value()) {
			if !first {
				_ = w.WriteByte(' ')
			}
			first = false
			_, _ = w.Write(word)
		}
		_, _ = w.WriteString("\r\n")
	}
	_, _ = w.WriteString("\r\n")
	return w.Flush()
}

var newline = []byte("\n")

func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// words iterates over what is between the blanks and line ends of a value.
func words(value []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for i := 0; i < len(value); {
			for i < len(value) && isBlank(value[i]) {
				i++
			}
			start := i
			for i < len(value) && !isBlank(value[i]) {
				i++
			}
			if start < i && !yield(value[start:i]) {
				return
			}
		}
	}
}

func countWords(value []byte) int {
	n := 0
	for range words(value) {
		n++
	}
	return n
}
