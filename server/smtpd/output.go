package smtpd

import (
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/emersion/go-smtp"

	"postern/internal/text"
)

const (
	// maxReplyLine bounds a line of a reply, without CRLF (RFC 5321, section 4.5.3.1.5).
	maxReplyLine = 510

	// maxHeldReplies is how many octets of replies are held back at most.
	maxHeldReplies = 8 << 10
)

// A Reply answers a command. It is not changed once it has been returned, so one
// value may serve many connections if OnSeen is nil.
type Reply struct {
	Code     int
	Enhanced smtp.EnhancedCode // on each line (RFC 2034, section 4); NoEnhancedCode: on none
	Lines    []string          // at least one; control characters are replaced, and lines cut at 510 octets

	Close      bool // the connection is closed after this reply, which should be 221, 421 or 521 (RFC 7504)
	NotAnError bool // does not count towards Config.MaxErrors

	// OnSeen, if it is not nil, is called once: with true when the client has
	// sent something after the reply, with false when the reply could not be
	// sent, or the connection ended, or was not acknowledged for a minute,
	// without that. It may be called by any goroutine and must not block.
	OnSeen func(seen bool)

	// Cause is what the log shows beside the text. It is never sent.
	Cause error
}

// NewReply makes a Reply of one line.
func NewReply(code int, enhanced smtp.EnhancedCode, text string) *Reply {
	return &Reply{Code: code, Enhanced: enhanced, Lines: []string{text}}
}

// Negative reports whether the command failed: 4yz or 5yz.
func (r *Reply) Negative() bool { return r.Code >= 400 }

// Text is the lines of the reply, separated by LF.
func (r *Reply) Text() string { return strings.Join(r.Lines, "\n") }

// appendTo appends the reply as it is sent.
func (r *Reply) appendTo(b []byte) []byte {
	for i, line := range r.Lines {
		begin := len(b)
		b = strconv.AppendInt(b, int64(r.Code), 10)
		if i < len(r.Lines)-1 {
			b = append(b, '-')
		} else {
			b = append(b, ' ')
		}
		b = appendEnhanced(b, r.Code, r.Enhanced)
		b = append(b, replyText(line, maxReplyLine-(len(b)-begin))...)
		b = append(b, "\r\n"...)
	}
	return b
}

// appendEnhanced appends an enhanced status code and a blank. 3yz has none, and
// a code that is not set is the general one of its class (RFC 3463, section 3.1).
func appendEnhanced(b []byte, code int, enhanced smtp.EnhancedCode) []byte {
	switch {
	case enhanced == smtp.NoEnhancedCode || code/100 == 3:
		return b
	case enhanced == smtp.EnhancedCodeNotSet:
		enhanced = smtp.EnhancedCode{code / 100, 0, 0}
	}
	for i, n := range enhanced {
		if i > 0 {
			b = append(b, '.')
		}
		b = strconv.AppendInt(b, int64(n), 10)
	}
	return append(b, ' ')
}

// replyText makes a line safe to send, and cuts it to at most limit octets between
// two characters.
func replyText(line string, limit int) string {
	return text.Cut(text.Replace(line, isUnsafe, '?'), limit)
}

func isUnsafe(r rune) bool { return r == utf8.RuneError || unicode.IsControl(r) }

// An output holds replies back until the next read from the connection, so that
// one EHLO, or one batch of pipelined commands, costs one packet (RFC 2920,
// section 3.2). Only the goroutine of the connection uses it.
type output struct {
	held []byte // lies in a replyBuffer, unless it has grown out of it
}

type replyBuffer [1 << 10]byte

var replyBuffers = sync.Pool{New: func() any { return new(replyBuffer) }}

// hold appends to what is held back, and reports whether it should be sent now.
func (o *output) hold(r *Reply) (full bool) {
	if o.held == nil {
		o.held = replyBuffers.Get().(*replyBuffer)[:0]
	}
	o.held = r.appendTo(o.held)
	return len(o.held) >= maxHeldReplies
}

// flush sends what is held back. An error is final.
func (o *output) flush(t *transport) error {
	if len(o.held) == 0 {
		return nil
	}
	err := t.send(o.held)
	if cap(o.held) == len(replyBuffer{}) {
		replyBuffers.Put((*replyBuffer)(o.held[:cap(o.held)]))
	}
	o.held = nil
	return err
}
