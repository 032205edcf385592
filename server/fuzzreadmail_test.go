package server

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
)

// noRecipient is the reply to DATA and BDAT without an accepted recipient.
func (r *reader) noRecipient() string {
	if r.mailed {
		return "554 5.5.1 "
	}
	return "503 5.5.1 "
}

// data takes DATA: a message, which only CRLF "." CRLF ends, and the reply to it.
func (r *reader) data(argument string) bool {
	switch {
	case argument != "":
		r.expect("DATA with a parameter", "501 5.5.4 ")
		return true
	case r.chunks.begun:
		r.expect("DATA after BDAT", "503 5.5.1 ")
		return true
	case len(r.to) == 0:
		r.expect("DATA without a recipient", r.noRecipient())
		return true
	}
	if reply := r.expect("DATA", "354 "); !strings.HasPrefix(reply, "354 ") {
		return true
	}
	text, rest, whole := strings.Cut("\r\n"+string(r.sent), "\r\n.\r\n")
	r.sent = []byte(rest)
	if !whole {
		// It was cut short: there may be a reply to that.
		r.sent = nil
		r.expect("a message without end", "451 4.4.2 ", "552 5.3.4 ")
		return false
	}
	text = strings.ReplaceAll(text+"\r\n", "\r\n.", "\r\n")[2:]
	r.end(r.reply(), text)
	return true
}

// bdat takes BDAT: a chunk (RFC 3030, section 2), and the reply to it.
func (r *reader) bdat(argument string) bool {
	args := strings.Fields(argument)
	last := len(args) == 2 && strings.EqualFold(args[1], "LAST")
	if len(args) == 0 || len(args) > 2 || len(args) == 2 && !last || strings.Trim(args[0], "0123456789") != "" {
		r.expect("BDAT "+argument, "501 5.5.4 ")
		r.expectClose("BDAT " + argument)
		return false
	}
	size, err := strconv.ParseUint(args[0], 10, 62)
	if err != nil {
		size = 1 << 62
	}
	refusal := r.refuseChunk(size)
	if refusal == replyToLaterChunk {
		defer r.counts.addJunk()
	}
	if refusal != "" && (size > r.maxDiscarded() || r.chunks.received > 2*sizeLimit) {
		r.expect("BDAT "+argument, refusal)
		r.expectClose("BDAT " + argument)
		return false
	}
	if uint64(len(r.sent)) < size {
		// A refused chunk has a reply only after its last octet, and so has one with content
		// that is refused.
		refused := refusal != "" || mayBeBad(r.chunks.text+string(r.sent))
		r.sent = nil
		if refused && len(r.replies) > 0 && !strings.HasPrefix(r.replies[0], "421 ") && !strings.HasPrefix(r.replies[0], "451 ") {
			if reply := r.reply(); reply[0] < '4' {
				r.t.Errorf("%q to a refused chunk without end", reply)
			}
			return false
		}
		if !refused || len(r.replies) > 0 && strings.HasPrefix(r.replies[0], "451 ") {
			r.expect("a chunk without end", "451 4.4.2 ")
		}
		return false
	}
	chunk := string(r.sent[:size])
	r.sent = r.sent[size:]
	r.endChunk(chunk, last, refusal)
	return true
}

// mayBeBad reports whether a text may be refused for its content: an octet, a line that is
// too long, or a large header.
func mayBeBad(text string) bool { return strings.Contains(text, "\x00") || len(text) > 16<<10 }

// refuseChunk counts a chunk, and returns the beginning of the reply if it must be
// refused.
func (r *reader) refuseChunk(size uint64) string {
	c := &r.chunks
	switch {
	case !r.secure:
		return replyBeforeTLS
	case len(r.to) == 0:
		return r.noRecipient()
	}
	c.begun = true
	c.count++
	c.received = min(c.received+size, 1<<62)
	refused := c.refused
	switch {
	case uint64(c.count) > 2000+c.received/512:
		c.refused = true
		return "554 5.7.0 "
	case refused:
		return replyToLaterChunk
	case c.received > sizeLimit:
		c.refused = true
		return "552 5.3.4 "
	}
	return ""
}

// maxDiscarded is how many octets of a refused chunk the server reads.
func (r *reader) maxDiscarded() uint64 {
	if r.user == "" && !(r.c.listener == openListener && r.hello) {
		return 16 << 10
	}
	return 2 * sizeLimit
}

// endChunk takes the reply to a chunk.
func (r *reader) endChunk(chunk string, last bool, refusal string) {
	what := fmt.Sprintf("a chunk of %d octets", len(chunk))
	switch {
	case refusal != "":
		r.expect(what, refusal)
		if last && r.chunks.begun {
			r.reset()
		}
	case last:
		r.end(r.reply(), r.chunks.text+chunk)
	default:
		// Only its content, and an end of the stream that cut it, are reasons to refuse it now.
		replies := []string{"250 2.0.0 Continue", "550 5.6.0 ", "452 4.3.1 "}
		if r.c.isShort() {
			replies = append(replies, "451 4.4.2 ")
		}
		reply := r.expect(what, replies...)
		r.chunks.refused = !strings.HasPrefix(reply, "250")
		r.chunks.text += chunk
	}
}

// end notes the reply to a message, which ends the transaction.
func (r *reader) end(reply, text string) {
	if strings.HasPrefix(reply, "250 ") {
		if len(r.to) == 0 || !r.mailed {
			r.t.Errorf("%q without a recipient", reply)
		}
		if len(text) > sizeLimit {
			r.t.Errorf("%q to a message of %d octets", reply, len(text))
		}
		r.found = append(r.found, acceptance{queuedAs(reply), r.c.listener, r.user, r.from, r.to, text})
		*r.counts = counts{proxyLines: r.counts.proxyLines}
	}
	if strings.HasPrefix(reply, "451 4.4.2 ") && !r.c.isShort() {
		r.t.Errorf("%q to a message that is whole: %.500q", reply, text)
	}
	for _, prefix := range []string{"501 ", "503 ", "354 ", "500 "} {
		if strings.HasPrefix(reply, prefix) {
			r.t.Errorf("%q to a message", reply)
		}
	}
	r.reset()
}

// auth takes an exchange, and finds out which user has logged in.
func (r *reader) auth(argument string) bool {
	args := strings.Fields(argument)
	switch {
	case !r.hello, r.user != "", r.mailed:
		r.expect("AUTH out of order", "503 5.5.1 ")
		return true
	case len(args) < 1 || len(args) > 2:
		r.expect("AUTH "+argument, "501 5.5.4 ")
		return true
	}
	var responses []string
	if len(args) == 2 {
		responses = append(responses, decode(args[1]))
	}
	reply := r.reply()
	for strings.HasPrefix(reply, "334") {
		line, n, kind := r.line()
		switch kind {
		case cutLine:
			r.cut(n)
			return false
		case tooLongLine:
			return r.overlong(n, "500 5.5.6 ")
		}
		text := strings.Trim(string(line), " \t\r\n")
		if text == "*" {
			r.expect("*", "501 5.7.0 ")
			return true
		}
		responses = append(responses, decode(text))
		reply = r.reply()
	}
	if !strings.HasPrefix(reply, "235") {
		return true
	}
	if !r.secure {
		r.t.Errorf("%q in clear", reply)
	}
	r.user = userOf(strings.Map(asciiCapital, args[0]), responses)
	if r.user == "" {
		r.t.Errorf("%q after wrong responses: %q %q", reply, args[0], responses)
		r.user = "?"
	}
	return true
}

func decode(text string) string {
	if text == "=" {
		return ""
	}
	plain, _ := base64.StdEncoding.DecodeString(text)
	return string(plain)
}

// userOf is the user that has given the right password. The proofs of SCRAM are not
// checked.
func userOf(mechanism string, responses []string) string {
	all := strings.Join(responses, "\x00")
	for _, u := range fuzzUsers[:2] {
		switch {
		case mechanism == "PLAIN" && (all == "\x00"+u.login+"\x00"+u.password || all == u.login+"\x00"+u.login+"\x00"+u.password),
			mechanism == "LOGIN" && all == u.login+"\x00"+u.password,
			mechanism == "SCRAM-SHA-256" && strings.HasPrefix(all, "n,,n="+u.login+",") && len(responses) >= 2:
			return u.user
		}
	}
	return ""
}

// lastChallenge is that of the last reply, if it is one.
func lastChallenge(received []byte) (string, bool) {
	lines := strings.Split(strings.TrimSuffix(string(received), "\r\n"), "\r\n")
	text, ok := strings.CutPrefix(lines[len(lines)-1], "334 ")
	return decode(text), ok
}
