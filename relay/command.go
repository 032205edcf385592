package relay

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/emersion/go-smtp"

	"postern/internal/dsn"
)

var crlf = []byte("\r\n")

// The functions below write MAIL and RCPT, which go-smtp's client cannot do: it
// encodes ENVID and ORCPT itself, and refuses values that are valid (RFC 3461).
// Their arguments have been validated by checkSender and newRecipient, so that no
// value can add a parameter or a second command.
//
// The longest line is that of an RCPT with MaxAddress octets of address, all of
// NOTIFY and an ORCPT of dsn.MaxOriginalRecipient octets: about 1,550 octets. RFC
// 5321, section 4.5.3.1.4, and the extensions promise less; Postfix reads 2,048
// (line_length_limit).

// An extensions value is what a hop offers of what MAIL and RCPT depend on.
type extensions struct {
	size, eightBit, utf8, dsn bool
}

// mailCommand returns MAIL without CRLF. AUTH= is never passed on: it would make
// the hop believe a claim that only this server can check (RFC 4954, section 5).
// Neither are parameters of extensions that the hop does not offer.
func mailCommand(from string, opts *smtp.MailOptions, hop extensions) string {
	var b strings.Builder
	fmt.Fprintf(&b, "MAIL FROM:<%s>", from)
	if hop.eightBit {
		b.WriteString(" BODY=8BITMIME")
	}
	if hop.size && opts.Size > 0 {
		fmt.Fprintf(&b, " SIZE=%d", opts.Size)
	}
	if hop.utf8 && opts.UTF8 {
		b.WriteString(" SMTPUTF8")
	}
	if hop.dsn && opts.Return != "" {
		fmt.Fprintf(&b, " RET=%s", opts.Return)
	}
	if hop.dsn && opts.EnvelopeID != "" {
		fmt.Fprintf(&b, " ENVID=%s", opts.EnvelopeID)
	}
	return b.String()
}

// rcptCommand returns RCPT without CRLF. smtputf8 is whether MAIL had SMTPUTF8;
// without it the whole line must be ASCII (RFC 6531, section 3.4), so an ORCPT in
// UTF-8 is converted, and left out if it is too long then (RFC 6533, section 3).
func rcptCommand(r recipient, smtputf8 bool, hop extensions) string {
	var b strings.Builder
	fmt.Fprintf(&b, "RCPT TO:<%s>", r.address)
	if !hop.dsn {
		return b.String()
	}
	for i, condition := range r.notify {
		separator := ","
		if i == 0 {
			separator = " NOTIFY="
		}
		b.WriteString(separator + string(condition))
	}
	original, ok := r.original, r.original != ""
	if ok && !smtputf8 {
		original, ok = dsn.ASCIIOriginalRecipient(string(r.originalType), original)
	}
	if ok {
		fmt.Fprintf(&b, " ORCPT=%s;%s", r.originalType, original)
	}
	return b.String()
}

// errUnclean means that a decorator has broken the guarantee of package message.
var errUnclean = errors.New("the message has a bare CR, a bare LF or a NUL in it")

// writeBody writes the message from in to out, dot-stuffed (RFC 5321, section 4.5.2),
// but for its last CRLF, which belongs to the CRLF "." CRLF that the caller
// ends the data with; an empty message becomes one empty line by that. The last
// block stays in out, to go with that end.
//
// It makes sure that only clean bytes are sent (RFC 5321, section 2.3.8): a Postfix that
// trusts this server does not check, and a bare LF before a dot could end the data
// there.
func writeBody(out *bufio.Writer, in *bufio.Reader) error {
	start, due := true, false // at the start of a line; CRLF still to be written
	for {
		block, err := nextBlock(in)
		if err != nil || len(block) == 0 {
			return err
		}
		dots, clean := checkBlock(block, start)
		if !clean {
			return errUnclean
		}
		if due {
			out.Write(crlf)
		}
		if start && block[0] == '.' {
			out.WriteByte('.')
		}
		text, ended := bytes.CutSuffix(block, crlf)
		for dots {
			end := bytes.Index(text, []byte("\n."))
			if end < 0 {
				break
			}
			out.Write(text[:end+1])
			out.WriteByte('.')
			text = text[end+1:]
		}
		if _, err := out.Write(text); err != nil {
			return err
		}
		start, due = ended, ended
	}
}

// nextBlock returns what in has next, without parting a CR from its LF. It is valid
// until the next read, and empty at the end.
func nextBlock(in *bufio.Reader) ([]byte, error) {
	if _, err := in.Peek(len(crlf)); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	block, _ := in.Peek(in.Buffered())
	if last := len(block) - 1; last > 0 && block[last] == '\r' {
		block = block[:last]
	}
	_, err := in.Discard(len(block))
	return block, err
}

// checkBlock reports whether a line of block begins with a dot, and whether CR and LF are
// in pairs and NUL is not there.
func checkBlock(block []byte, start bool) (dots, clean bool) {
	dots = start && block[0] == '.'
	lines := 0
	for rest := block; ; lines++ {
		end := bytes.IndexByte(rest, '\n')
		if end < 0 {
			break
		}
		if end == 0 || rest[end-1] != '\r' {
			return dots, false
		}
		rest = rest[end+1:]
		dots = dots || len(rest) > 0 && rest[0] == '.'
	}
	return dots, bytes.Count(block, crlf[:1]) == lines && bytes.IndexByte(block, 0) < 0
}
