package server

import (
	"bytes"
	"encoding/base64"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"postern/relay/relaytest"
)

// judge compares what the clients of a program have said and heard with what has
// come to the relay and to the next hop. It returns how many messages that are.
func judge(t *testing.T, s *fuzzStand, p *fuzzPlay) int {
	messages, commands, faults := s.hop.Take()
	asked, sent := s.relay.take()
	for _, fault := range faults {
		t.Error(fault)
	}
	for _, c := range commands {
		if !hopCommand.MatchString(c) {
			t.Errorf("the hop was told %q", c)
		}
	}
	for _, q := range asked {
		if why := forbidden(q); why != "" {
			t.Errorf("<%s> for %q (%s) got as far as the relay: %s", q.to, q.envelope.Login, q.envelope.Listener, why)
		}
	}
	var heard []acceptance
	lost := false
	for _, c := range p.clients {
		lost = lost || c.wasReset()
		heard = append(heard, read(t, c)...)
	}
	compare(t, delivered(messages), heard, sent, lost)
	if t.Failed() {
		for i, c := range p.clients {
			t.Logf("client %d of %s\nin clear %.4000q\nheard %.4000q\nunder TLS %.4000q\nheard %.4000q", i, c.listener,
				c.clear.sent, c.clear.heard, c.secure.sent, c.secure.heard)
		}
	}
	return len(heard)
}

var hopCommand = regexp.MustCompile(`^\d+ (?:EHLO \S+|MAIL FROM:<[^\r\n]*>.*|RCPT TO:<[^\r\n]+>.*|DATA|RSET|QUIT)$`)

// forbidden says why the policy should have refused a recipient.
func forbidden(q question) string {
	at := strings.LastIndexByte(q.to, '@')
	local, domain := q.to[:max(at, 0)], strings.ToLower(q.to[at+1:])
	switch {
	case q.envelope.Login == "" && q.envelope.Listener != openListener:
		return "without AUTH"
	case !strings.Contains(domain, ".") && !strings.HasPrefix(domain, "["):
		return "not fully qualified"
	case q.envelope.Login == "" && (domain != relayDomain || strings.ContainsAny(local, "%!@")):
		return "not ours"
	}
	return ""
}

func delivered(all []relaytest.Message) map[string]relaytest.Message {
	yes := map[string]relaytest.Message{}
	for _, m := range all {
		// What is cut short is no answer.
		if strings.HasPrefix(m.Reply, "250 ") && queuedAs(m.Reply) != "" {
			yes[queuedAs(m.Reply)] = m
		}
	}
	return yes
}

// An acceptance is a message that a client has heard 250 for.
type acceptance struct {
	id       string
	listener string
	user     string
	from     string
	to       []string
	body     string // as the client meant it
}

// compare has each message of the hop meet its acceptance, and the other way
// round.
func compare(t *testing.T, hop map[string]relaytest.Message, heard []acceptance, sent map[string]dispatch, lost bool) {
	t.Helper()
	if !lost && len(heard) != len(sent) || len(heard) > len(sent) {
		t.Errorf("250 was heard for %d messages, and the hop has taken %d", len(heard), len(sent))
	}
	seen := map[string]bool{}
	for _, a := range heard {
		m, ok := hop[a.id]
		d := sent[a.id]
		if !ok || d.envelope == nil || seen[a.id] {
			t.Errorf("250 was heard for %q (again: %v), which the hop has not taken", a.id, seen[a.id])
			continue
		}
		seen[a.id] = true
		e := d.envelope
		if e.Login != a.user || e.Listener != a.listener || !mayUse(e.Login, e.Sender) {
			t.Errorf("a message from <%s> was accepted from %q on %s, who is %q on %s", e.Sender, e.Login, e.Listener, a.user, a.listener)
		}
		if m.From != e.Sender || !slices.Equal(envelopeOf(m.To), d.to) {
			t.Errorf("<%s> to %q became <%s> to %q", e.Sender, d.to, m.From, m.To)
		}
		if !alike(m.From, a.from) || len(a.to) != len(m.To) {
			t.Errorf("the client has said <%s> to %q, and it became <%s> to %q", a.from, a.to, m.From, m.To)
		}
		for i := range min(len(a.to), len(m.To)) {
			if !alike(m.To[i].Address, a.to[i]) {
				t.Errorf("the client has said <%s>, and it became <%s>", a.to[i], m.To[i].Address)
			}
		}
		compareText(t, string(m.Data), a.body)
	}
	for _, id := range slices.Sorted(maps.Keys(sent)) {
		if !seen[id] && !lost {
			t.Errorf("nobody has heard 250 for %q, from <%s>", id, sent[id].envelope.Sender)
		}
	}
}

func envelopeOf(all []relaytest.Recipient) (to []string) {
	for _, r := range all {
		to = append(to, r.Address)
	}
	return to
}

var plainAddress = regexp.MustCompile(`^[A-Za-z0-9]+@[A-Za-z0-9.]+$`)

// alike compares those addresses that have only one spelling.
func alike(a, said string) bool { return a == said || !plainAddress.MatchString(said) }

var (
	lineEnds  = regexp.MustCompile(`\r*\n`)
	loneCR    = regexp.MustCompile(`\r([^\n])`)
	headLines = regexp.MustCompile(`^(?:[!-9;-~]+:[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*)+\r\n`)
)

// meant is a message with its line ends mended, by RFC 5321, section 2.3.8, and
// the ways of Postfix.
func meant(text string) string {
	if trimmed := strings.TrimRight(text, "\r"); trimmed != text {
		text = trimmed + "\r\n"
	} else if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\r\n"
	}
	text = lineEnds.ReplaceAllString(text, "\r\n")
	for loneCR.MatchString(text) {
		text = loneCR.ReplaceAllString(text, " $1")
	}
	return text
}

// compareText compares the bodies of those messages of which it is plain where
// the body begins.
func compareText(t *testing.T, got, said string) {
	t.Helper()
	if strings.Contains(said, "\x00") {
		t.Errorf("a message with a NUL was accepted: %.500q", said)
	}
	if !strings.HasPrefix(got, "Received: ") {
		t.Errorf("a message without our Received: %.500q", got)
	}
	text := meant(said)
	head := headLines.FindString(text)
	_, body, _ := strings.Cut(got, "\r\n\r\n")
	if head != "" && body != text[len(head):] {
		t.Errorf("the client has said %.2000q, and it became %.2000q", said, got)
	}
}

// A reader reads what was said and heard on a connection once more, as simply as
// can be, and finds out what ought to have happened.
type reader struct {
	t       *testing.T
	c       *pipeClient
	secure  bool
	said    []byte
	replies []string
	endless bool // the client has ended with a line that is too long
	loose   bool // the replies are at an end, or not to be told apart any more
	user    string
	mailed  bool
	from    string
	to      []string
	chunks  string
	found   []acceptance
}

// read returns the messages that were accepted on a connection.
func read(t *testing.T, c *pipeClient) []acceptance {
	t.Helper()
	if c.early {
		t.Errorf("the server has spoken first under TLS: %q", c.secure.heard)
	}
	r := &reader{t: t, c: c, said: c.clear.sent}
	if c.listener == starttlsListener {
		r.replies = r.lines(c.clear.heard)
		r.conversation(true)
	} else if len(c.clear.heard) > 0 && !isAlert(c.clear.heard) {
		t.Errorf("in clear, where TLS is from the first byte: %q", c.clear.heard)
	}
	secure := &reader{t: t, c: c, secure: true, said: c.secure.sent}
	secure.replies = secure.lines(c.secure.heard)
	secure.conversation(c.listener != starttlsListener)
	return append(r.found, secure.found...)
}

// isAlert reports whether this is a TLS alert and nothing else (RFC 8446, section
// 6): what a client that speaks in clear gets from who speaks TLS.
func isAlert(b []byte) bool { return len(b) >= 7 && b[0] == 21 && b[1] == 3 }

// lines takes replies apart; each is the code and the text of its last line.
func (r *reader) lines(heard []byte) (replies []string) {
	for len(heard) > 0 {
		if !r.secure && heard[0] == 21 {
			return append(replies, string(heard))
		}
		line, rest, ok := bytes.Cut(heard, []byte("\r\n"))
		heard = rest
		text := string(line)
		if !ok || !replyLine.MatchString(text) || len(text) > 1000 || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
			r.t.Errorf("this is no line of a reply: %q", line)
			return replies
		}
		if len(text) == 3 || text[3] == ' ' {
			replies = append(replies, text)
		}
	}
	return replies
}

var replyLine = regexp.MustCompile(`^[2-5][0-9][0-9](?:[ -].*)?$`)

// reply is the next one. Of one that is not there it is an empty string, and from
// then on everything may be missing.
func (r *reader) reply() string {
	if len(r.replies) == 0 {
		if !r.loose && !r.c.isShort() {
			r.t.Errorf("a command without a reply, before %.200q", r.said)
		}
		r.loose = true
		return ""
	}
	next := r.replies[0]
	r.replies = r.replies[1:]
	if strings.HasPrefix(next, "421 ") || strings.HasPrefix(next, "500 5.4.0 ") {
		r.loose = true
		r.said = nil
	}
	return next
}

// line is the next line of the client. One that is cut short is none.
func (r *reader) line() (string, bool) {
	i := bytes.IndexByte(r.said, '\n')
	if i < 0 {
		r.endless = len(r.said) > maxCommand
		r.said = nil
		return "", false
	}
	line := r.said[:i+1]
	r.said = r.said[i+1:]
	return strings.TrimRight(string(line), " \t\r\n"), true
}

// conversation goes through all of it.
func (r *reader) conversation(greeting bool) {
	switch {
	case len(r.replies) == 0 && (greeting || r.c.failed):
		return // the handshake has failed
	case greeting:
		if hello := r.reply(); hello != "" && !strings.HasPrefix(hello, "220 ") && !r.loose {
			r.t.Errorf("the server has begun with %q", hello)
		}
	}
	for !r.loose {
		line, ok := r.line()
		if !ok || !r.command(line) {
			break
		}
	}
	// Behind the last reply there may be a farewell, or the reply to a line without
	// end.
	if len(r.replies) == 1 && (strings.HasPrefix(r.replies[0], "421 ") || r.endless && strings.HasPrefix(r.replies[0], "500 5.4.0 ")) {
		r.replies = nil
	}
	if len(r.replies) > 0 {
		r.t.Errorf("more was heard than was asked: %q", r.replies)
	}
}

// command takes a line and what belongs to it, and reports whether the
// conversation goes on.
func (r *reader) command(line string) bool {
	verb, argument, _ := strings.Cut(line, " ")
	switch strings.ToUpper(verb) {
	case "DATA":
		return r.data()
	case "BDAT":
		return r.bdat(argument)
	case "AUTH":
		return r.auth(argument)
	}
	reply := r.reply()
	code := reply[:min(3, len(reply))]
	if strings.Contains(reply, "queued as ") && code == "250" {
		r.t.Errorf("%q in reply to %q", reply, line)
	}
	switch {
	case code == "220" && !r.secure: // STARTTLS
		r.said = nil
		if len(r.replies) == 1 && isAlert([]byte(r.replies[0])) {
			r.replies = nil
		}
		return false
	case code == "221":
		r.said = nil
		return false
	case code != "250":
		return true
	}
	r.yes(strings.ToUpper(verb), line)
	return true
}

// yes notes what a 250 means.
func (r *reader) yes(verb, line string) {
	switch verb {
	case "EHLO", "HELO", "RSET":
		r.reset()
	case "MAIL":
		if !r.secure || r.user == "" && r.c.listener != openListener {
			r.t.Errorf("%q was accepted without AUTH", line)
		}
		if r.mailed {
			r.t.Errorf("%q was accepted in a transaction", line)
		}
		r.mailed, r.from, r.to = true, address(line), nil
	case "RCPT":
		if !r.mailed || !mayUse(r.user, r.from) && plainAddress.MatchString(r.from) {
			r.t.Errorf("%q was accepted from %q as <%s>", line, r.user, r.from)
		}
		r.to = append(r.to, address(line))
	}
}

func (r *reader) reset() { r.mailed, r.from, r.to, r.chunks = false, "", nil, "" }

// address is what stands between the brackets, if that is simple to tell.
func address(line string) string {
	_, rest, ok := strings.Cut(line, "<")
	inner, _, closed := strings.Cut(rest, ">")
	if !ok || !closed || strings.ContainsAny(inner, `"<`) {
		return "?"
	}
	return inner
}

// data takes a message, which only CRLF "." CRLF ends, and the reply to it.
func (r *reader) data() bool {
	if reply := r.reply(); !strings.HasPrefix(reply, "354") {
		return true
	}
	if len(r.to) == 0 || r.chunks != "" {
		r.t.Error("354 without a recipient, or with BDAT")
	}
	text := "\r\n" + string(r.said)
	body, rest, whole := strings.Cut(text, "\r\n.\r\n")
	r.said = []byte(rest)
	if !whole {
		// It was cut short: there may be a reply that says so.
		r.said = nil
		if reply := r.reply(); strings.HasPrefix(reply, "250") {
			r.t.Errorf("%q to a message without end", reply)
		}
		return false
	}
	body = strings.ReplaceAll(body+"\r\n", "\r\n.", "\r\n")[2:]
	r.end(r.reply(), body)
	return true
}

// bdat takes a chunk (RFC 3030, section 2), and the reply to it.
func (r *reader) bdat(argument string) bool {
	args := strings.Fields(argument)
	last := len(args) == 2 && strings.EqualFold(args[1], "LAST")
	if len(args) == 0 || len(args) > 2 || len(args) == 2 && !last {
		r.reply()
		return true
	}
	size, err := strconv.ParseUint(args[0], 10, 32)
	if err != nil {
		r.reply()
		return true
	}
	if uint64(len(r.said)) < size {
		r.said = nil
		if reply := r.reply(); strings.HasPrefix(reply, "250") {
			r.t.Errorf("%q to a chunk without end", reply)
		}
		return false
	}
	chunk := string(r.said[:size])
	r.said = r.said[size:]
	reply := r.reply()
	switch {
	case last:
		r.end(reply, r.chunks+chunk)
	case strings.HasPrefix(reply, "250"):
		if len(r.to) == 0 || strings.Contains(reply, "queued as") {
			r.t.Errorf("%q to a chunk", reply)
		}
		r.chunks += chunk
	}
	return true
}

// end notes what became of a message.
func (r *reader) end(reply, body string) {
	if strings.HasPrefix(reply, "250 ") {
		if len(r.to) == 0 || !r.mailed {
			r.t.Errorf("%q without a recipient", reply)
		}
		r.found = append(r.found, acceptance{queuedAs(reply), r.c.listener, r.user, r.from, r.to, body})
		r.reset()
		return
	}
	if strings.HasPrefix(reply, "451 4.4.2 ") && !r.c.isShort() {
		r.t.Errorf("%q to a message that is whole: %.500q", reply, body)
	}
	// Whether a refusal has ended the transaction shows in what is accepted next.
	if !strings.HasPrefix(reply, "503") && !strings.HasPrefix(reply, "501") {
		r.reset()
	}
}

// auth takes an exchange, and finds out who has got in.
func (r *reader) auth(argument string) bool {
	mech, first, initial := strings.Cut(argument, " ")
	var responses []string
	if initial {
		responses = append(responses, decode(strings.TrimSpace(first)))
	}
	reply := r.reply()
	for strings.HasPrefix(reply, "334") {
		if !r.secure {
			r.t.Error("AUTH in clear")
		}
		line, ok := r.line()
		if !ok {
			return false
		}
		responses = append(responses, decode(line))
		reply = r.reply()
	}
	if !strings.HasPrefix(reply, "235") {
		return true
	}
	if !r.secure || r.user != "" || r.mailed {
		r.t.Errorf("%q in clear, again, or in a transaction", reply)
	}
	r.user = who(strings.ToUpper(mech), responses)
	if r.user == "" {
		r.t.Errorf("%q let in somebody: %q", mech, responses)
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

// who is the user that has given the right password. The proofs of SCRAM are taken
// for right.
func who(mech string, responses []string) string {
	all := strings.Join(responses, "\x00")
	for _, u := range fuzzUsers[:2] {
		switch {
		case mech == "PLAIN" && (all == "\x00"+u.login+"\x00"+u.password || all == u.login+"\x00"+u.login+"\x00"+u.password),
			mech == "LOGIN" && all == u.login+"\x00"+u.password,
			mech == "SCRAM-SHA-256" && strings.HasPrefix(all, "n,,n="+u.login+",") && len(responses) >= 2:
			return u.user
		}
	}
	return ""
}

// lastChallenge is that of the last reply, if it is one.
func lastChallenge(heard []byte) (string, bool) {
	lines := strings.Split(strings.TrimSuffix(string(heard), "\r\n"), "\r\n")
	text, ok := strings.CutPrefix(lines[len(lines)-1], "334 ")
	return decode(text), ok
}
