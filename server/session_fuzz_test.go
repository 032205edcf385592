package server

import (
	"encoding/base64"
	"fmt"
	"testing"
)

// FuzzSession plays a program of bytes: what one to four clients do to a server
// with a policy, two users with different rules for senders, and a next hop that
// may be told to misbehave. The connections are pipes, cut into pieces of any
// size, and cut off anywhere. Package-wide invariants are checked by judge:
//
//   - Nobody gets in without a password, nothing of use is done in clear or
//     without AUTH, nobody sends as somebody else, and no recipient that the
//     policy refuses gets as far as the relay.
//   - Each command has one reply, and the messages that the hop has taken are
//     those that the clients have heard 250 for: the same senders, recipients and
//     bytes as a second, simpler reader finds in what the clients have said.
//   - What comes to the hop is clean: CRLF only, no NUL, dots stuffed, ended once.
//   - In the end every connection is closed, every staged message gone, and no
//     goroutine is left; nothing has panicked, and no password is in the log.
//
// A program is a list of steps; see steps. Each begins with a byte whose low five
// bits are the step and whose high three its variant.
func FuzzSession(f *testing.F) {
	for _, seed := range sessionSeeds() {
		f.Add(seed)
	}
	s := newFuzzStand(f)
	f.Fuzz(func(t *testing.T, program []byte) { s.play(t, program) })
}

// The bounds of one program.
const (
	maxSteps   = 80
	maxClients = 4
	maxSent    = 512 << 10
)

// A step of a program.
type fuzzStep func(*fuzzPlay, int)

const (
	stepFlush = iota
	stepOpen
	stepBegin
	stepLine
	stepRaw
	stepPiece
	stepAuth
	stepSecure
	stepMail
	stepData
	stepBDAT
	stepSip
	stepCut
	stepEnd
	stepUse
	stepHop
	stepUnder
	stepReload
)

var fuzzSteps = [...]fuzzStep{
	stepFlush:  func(p *fuzzPlay, _ int) { p.flush() },
	stepOpen:   (*fuzzPlay).open,
	stepBegin:  (*fuzzPlay).begin,
	stepLine:   (*fuzzPlay).line,
	stepRaw:    (*fuzzPlay).raw,
	stepPiece:  (*fuzzPlay).piece,
	stepAuth:   (*fuzzPlay).auth,
	stepSecure: (*fuzzPlay).secure,
	stepMail:   (*fuzzPlay).mail,
	stepData:   (*fuzzPlay).data,
	stepBDAT:   (*fuzzPlay).bdat,
	stepSip:    (*fuzzPlay).sip,
	stepCut:    (*fuzzPlay).cut,
	stepEnd:    (*fuzzPlay).end,
	stepUse:    (*fuzzPlay).use,
	stepHop:    func(p *fuzzPlay, how int) { p.stand.mode.Store(int32(how)) },
	stepUnder:  (*fuzzPlay).under,
	stepReload: (*fuzzPlay).reload,
}

// A fuzzPlay is a program that is being played.
type fuzzPlay struct {
	t       *testing.T
	stand   *fuzzStand
	program []byte
	clients []*pipeClient
	client  *pipeClient
	sent    int
	reloads int
}

func (p *fuzzPlay) run() {
	p.add(starttlsListener, 0)
	for range maxSteps {
		if len(p.program) == 0 || p.sent > maxSent {
			break
		}
		b := int(p.byte())
		fuzzSteps[b&31%len(fuzzSteps)](p, b>>5)
	}
	for _, c := range p.clients {
		c.end(true, false)
	}
}

func (p *fuzzPlay) byte() byte {
	if len(p.program) == 0 {
		return 0
	}
	b := p.program[0]
	p.program = p.program[1:]
	return b
}

func (p *fuzzPlay) bytes() []byte {
	n := min(int(p.byte()), len(p.program))
	b := p.program[:n]
	p.program = p.program[n:]
	return b
}

// say adds text to what is sent with the next flush.
func (p *fuzzPlay) say(text string) {
	p.sent += len(text)
	p.client.pending = append(p.client.pending, text...)
}

func (p *fuzzPlay) flush() { p.client.flush() }

// flushIf flushes for the variants from 4 on.
func (p *fuzzPlay) flushIf(how int) {
	if how&4 != 0 {
		p.flush()
	}
}

// open makes another connection: to which listener, and with which version of
// TLS in prospect.
func (p *fuzzPlay) open(how int) {
	if len(p.clients) < maxClients {
		p.client.flush()
		p.add(fuzzListeners[how&3%len(fuzzListeners)], how>>2)
	}
}

func (p *fuzzPlay) add(listener string, version int) {
	p.client = p.stand.dial(listener, version)
	p.clients = append(p.clients, p.client)
	p.client.settle()
}

// begin goes all the way to the 235 of AUTH, on the connection that there is.
func (p *fuzzPlay) begin(how int) {
	if p.client.listener == starttlsListener {
		p.say("EHLO client.example.org\r\nSTARTTLS\r\n")
		p.flush()
	}
	p.client.pending = nil
	if p.client.tls == nil {
		p.client.handshake()
	}
	u := fuzzUsers[how&1]
	p.say("EHLO client.example.org\r\nAUTH PLAIN " + encode("\x00"+u.login+"\x00"+u.password) + "\r\n")
	p.flush()
}

func encode(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

// line says one of the commands, with one of the ends of a line.
func (p *fuzzPlay) line(how int) {
	p.say(fuzzLines[int(p.byte())%len(fuzzLines)] + [4]string{"\r\n", "\n", "", " \t\r\n"}[how&3])
	p.flushIf(how)
}

func (p *fuzzPlay) raw(how int) {
	p.say(string(p.bytes()))
	p.flushIf(how)
}

// piece says a piece of a message, up to 2,000 times.
func (p *fuzzPlay) piece(how int) {
	text := fuzzPieces[int(p.byte())%len(fuzzPieces)]
	for range [4]int{1, 2, 70, 2000}[how&3] {
		p.say(text)
	}
	p.flushIf(how)
}

// auth has an exchange of one of the forms, of one of the users or of none.
func (p *fuzzPlay) auth(how int) {
	b := int(p.byte())
	u := fuzzUsers[b&3]
	form := b >> 2 % 16
	plain := "\x00" + u.login + "\x00" + u.password
	switch form {
	case 0:
		p.say("AUTH PLAIN " + encode(plain) + "\r\n")
	case 1:
		p.say("AUTH PLAIN\r\n" + encode(plain) + "\r\n")
	case 2:
		p.say("AUTH LOGIN\r\n" + encode(u.login) + "\r\n" + encode(u.password) + "\r\n")
	case 3:
		p.say("AUTH LOGIN " + encode(u.login) + "\r\n" + encode(u.password) + "\r\n")
	case 4:
		p.say("AUTH LOGIN\r\n*\r\n")
	case 5:
		p.say("AUTH PLAIN\r\n*\r\n")
	case 6:
		p.say("AUTH LOGIN =\r\n\r\n\r\n")
	case 7:
		p.say("AUTH PLAIN !!!!\r\n")
	case 8:
		p.say("auth plain " + encode("alice"+plain) + "\r\n") // acts as alice
	case 9:
		p.say("AUTH PLAIN " + encode(plain+"\x00") + "\r\n")
	case 10:
		p.say("AUTH LOGIN\r\nMAIL FROM:<alice@example.org>\r\nQUIT\r\n")
	case 11:
		p.say("AUTH PLAIN =\r\n")
	default:
		p.scram(u, form&3)
		return
	}
	p.flushIf(how)
}

// scram has an exchange of SCRAM-SHA-256, if the server plays along: as it should
// be, cancelled, with a proof that was tampered with, or without the last answer.
func (p *fuzzPlay) scram(u fuzzUser, how int) {
	conversation := p.stand.scram(u)
	message, err := conversation.Step("")
	p.say("AUTH SCRAM-SHA-256 " + encode(message) + "\r\n")
	p.flush()
	for i := 0; err == nil; i++ {
		challenge, ok := lastChallenge(p.client.layer().heard)
		if !ok {
			return
		}
		if how == 1 && i == 1 || how == 3 && i == 0 {
			p.say("*\r\n")
			p.flush()
			return
		}
		message, err = conversation.Step(challenge)
		if how == 2 && i == 0 && len(message) > 8 {
			message = message[:len(message)-4] + "AAA="
		}
		p.say(encode(message) + "\r\n")
		p.flush()
	}
}

// secure begins TLS: as it should be, with more behind STARTTLS or in its place,
// or without it.
func (p *fuzzPlay) secure(how int) {
	if p.client.tls != nil {
		return
	}
	starttls := p.client.listener == starttlsListener
	switch {
	case !starttls || how == 3:
	case how == 1:
		p.say("STARTTLS\r\nEHLO injected.example.org\r\nMAIL FROM:<alice@example.org>\r\n")
	case how == 2:
		p.say("STARTTLS\r\n") // and the handshake right behind it
	case how == 4:
		p.say("STARTTLS please\r\nSTARTTLS\r\n")
	case how == 5:
		p.say("STARTTLS\r\n" + string(p.bytes()))
	case how == 6:
		p.say("STARTTLS\r\nSTARTTLS\r\n")
	default:
		p.say("STARTTLS\r\n")
	}
	if how != 2 {
		p.flush()
	} else {
		p.client.clear.sent = append(p.client.clear.sent, p.client.pending...)
		p.client.send(p.client.pending)
		p.client.pending = nil
		p.client.spoil() // TLS eats the 220
	}
	if how == 7 {
		p.say(string(p.bytes())) // in the place of a handshake
		p.flush()
		return
	}
	p.client.handshake()
}

// mail says MAIL and RCPT.
func (p *fuzzPlay) mail(how int) {
	p.say("MAIL FROM:<" + [4]string{"alice@example.org", "bob@example.org", "", "guest@example.net"}[how&3] + ">\r\n")
	p.say("RCPT TO:<" + fuzzRecipients[int(p.byte())%len(fuzzRecipients)] + ">\r\n")
	p.flushIf(how)
}

// data says DATA and a message, of which the end is one of many, or comes later.
func (p *fuzzPlay) data(how int) {
	p.say("DATA\r\n")
	if how&1 != 0 {
		p.flush()
	}
	p.say("Subject: x\r\n\r\n")
	p.say(string(p.bytes()))
	if how&2 == 0 {
		p.say("\r\n.\r\n")
	}
	p.flushIf(how)
}

// bdat says a chunk, of which the announced size may be wrong.
func (p *fuzzPlay) bdat(how int) {
	chunk := p.bytes()
	size := len(chunk)
	if how&2 != 0 {
		size += int(int8(p.byte()))
	}
	p.say(fmt.Sprintf("BDAT %d%s\r\n%s", size, [2]string{"", " LAST"}[how&1], chunk))
	p.flushIf(how)
}

// sip is how much the server gets to read at once from now on.
func (p *fuzzPlay) sip(int) {
	n := int(p.byte())
	p.client.mu.Lock()
	defer p.client.mu.Unlock()
	p.client.pipe.sip = n
}

// cut is where the stream will end, by FIN or RST.
func (p *fuzzPlay) cut(how int) {
	n := int(p.byte()) | (how>>1)<<8
	p.client.cut(n, how&1 != 0)
}

// end closes the connection.
func (p *fuzzPlay) end(how int) {
	if how&2 != 0 {
		p.client.pending = nil // in the middle
	}
	p.client.end(how&1 != 0, how&4 != 0)
}

func (p *fuzzPlay) use(how int) { p.client = p.clients[how%len(p.clients)] }

// under puts bytes beneath TLS.
func (p *fuzzPlay) under(int) {
	text := p.bytes()
	if p.client.tls != nil {
		p.flush()
		p.client.send(text)
		p.client.spoil()
		p.flush()
	}
}

// reload replaces the parts of the server; the connections keep theirs.
func (p *fuzzPlay) reload(int) {
	if p.reloads++; p.reloads > 2 {
		return
	}
	if err := p.stand.server.Reload(p.stand.parts); err != nil {
		p.t.Fatal(err)
	}
}

// fuzzLines are commands.
var fuzzLines = []string{
	"EHLO client.example.org", "HELO client.example.org", "EHLO", "NOOP", "RSET", "VRFY alice", "HELP", "QUIT", "",
	"STARTTLS", "STARTTLS x", "starttl\u017f", "LHLO x", "XCLIENT ADDR=127.0.0.1 LOGIN=alice", "GET / HTTP/1.0", "FOOO", "AUTH", "AUTH X", "AUTH PLAIN",
	"MAIL FROM:<alice@example.org>", "MAIL FROM:<bob@example.org>", "MAIL FROM:<>", "mail from:<ALICE@example.org>", "MAIL FROM:alice@example.org",
	"MAIL FROM:<alice@example.org> SIZE=100", "MAIL FROM:<alice@example.org> SIZE=99999999", "MAIL FROM:<alice@example.org> BODY=8BITMIME SMTPUTF8",
	"MAIL FROM:<alice@example.org> RET=HDRS ENVID=x+0D+0Ay AUTH=<>", "MAIL FROM:<alice@example.org> BODY=BINARYMIME", "MAIL FROM:<guest@example.net>",
	"MAIL FROM:<alice@example.org>\r", "MAIL FROM:<\"alice@example.org>\r\nRCPT TO:<x\"@example.org>",
	"RCPT TO:<carol@example.com>", "RCPT TO:<carol@example.net>", "RCPT TO:<dave@nodot>", "RCPT TO:<nobody@example.com>", "RCPT TO:<later@example.com>",
	"RCPT TO:<carol@example.com> NOTIFY=NEVER ORCPT=rfc822;x@y.z", "RCPT TO:<carol%example.com@example.net>", "RCPT TO:<@example.net:carol@example.com>",
	"RCPT TO:<\"carol>\x00\"@example.com>", "RCPT TO:<k\u00e4the@example.com>", "RCPT TO:<carol@[192.0.2.1]>", "RCPT TO:<gone@example.com>", "RCPT TO:carol@example.com",
	"DATA", "DATA x", "BDAT", "BDAT 0", "BDAT 0 LAST", "BDAT 5 LAST", "BDAT -1", "BDAT 99999999999", "BDAT 200000", "BDAT 5 FIRST", "bdat 5 last", "BDAT  5  LAST", "BDAT\t5", ".",
}

var fuzzRecipients = []string{
	"carol@example.com", "carol@example.net", "dave@nodot", "nobody@example.com", "later@example.com", "gone@example.com", "\"q q\"@example.com",
}

// fuzzPieces are what messages are made of when somebody means mischief.
var fuzzPieces = []string{
	"\r\n.\r\n", "\n.\n", "\r.\r", "\r\n.\n", "\n.\r\n", "\r\n.\r", "\r\r\n.\r\r\n", ".\r\n", "..\r\n", ".", "\r\n", "\r", "\n", "\x00",
	"MAIL FROM:<bob@example.org>\r\n", "RCPT TO:<smuggled@example.com>\r\n", "DATA\r\n", "Subject: y\r\n\r\n", "text\r\n", "0123456789", " folded\r\n",
	"From: x\r\nBcc: y@example.org\r\n", "\u00e4\r\n", "Received: x\r\n", "BDAT 9 LAST\r\n", "RSET\r\n", "QUIT\r\n", "\x16\x03\x01\x00\x05hello", "*\r\n",
}

// sessionSeeds are programs that lead to the places where much can go wrong.
func sessionSeeds() [][]byte {
	begin := []byte{stepBegin, stepMail, 0}
	with := func(parts ...[]byte) (all []byte) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	text := func(step, how int, s string) []byte { return append([]byte{byte(step | how<<5), byte(len(s))}, s...) }
	var seeds [][]byte
	for i := range fuzzLines {
		seeds = append(seeds,
			[]byte{stepLine | 4<<5, byte(i)},                                                                                 // in clear
			[]byte{stepLine, 0, stepSecure, stepLine, 0, stepLine | 4<<5, byte(i)},                                           // a stranger
			with(begin, []byte{stepLine, byte(i)}, text(stepData, 4, "x"), []byte{stepLine, byte(i)}),                        // in a transaction, pipelined
			[]byte{stepOpen | 2<<5, stepSecure, stepLine, 0, stepLine, byte(i), stepMail | 3<<5, 1, stepData | 4<<5, 1, 'x'}, // where AUTH is not needed
		)
	}
	for i := range fuzzPieces {
		seeds = append(seeds,
			with(begin, text(stepData, 2, "one"), []byte{stepPiece, byte(i), stepPiece, 0}, begin[1:], text(stepData, 4, "two")),
			with([]byte{stepSip, 1}, begin, text(stepData, 3, ""), []byte{stepPiece | 1<<5, byte(i), stepPiece | 4<<5, 0}),
			with(begin, text(stepBDAT, 0, "Subject: x\r\n\r\n"), []byte{stepPiece, byte(i)}, text(stepBDAT, 5, "end")),
			with(begin, text(stepData, 2, "..\r\n.a\r\n..b\r\n"), []byte{stepPiece | 1<<5, byte(i), stepPiece, 0, stepLine, 3}),
			with(begin, []byte{stepLine, 45, stepPiece | 3<<5, byte(i), stepPiece, 0, stepLine, 3}),
		)
	}
	for form := range 16 {
		for user := range 4 {
			seeds = append(seeds, []byte{stepOpen | 1<<5, stepSecure, stepLine, 0, stepAuth | 4<<5, byte(form<<2 | user), stepMail, 0, stepData, 1, 'x'})
		}
		seeds = append(seeds, []byte{stepLine, 0, stepAuth, byte(form << 2)}, // in clear
			[]byte{stepOpen | 5<<5, stepSecure, stepLine, 0, stepAuth, byte(form<<2 | 2), stepAuth, byte(form<<2 | 2), stepAuth, byte(form<<2 | 2), stepAuth, 0, stepMail, 0})
	}
	for how := range 8 {
		seeds = append(seeds,
			[]byte{stepLine, 0, byte(stepSecure | how<<5), 5, 'N', 'O', 'O', 'P', '\n', stepLine, 0, stepAuth, 0, stepMail, 0, stepData, 1, 'x'},
			with([]byte{stepHop | byte(how)<<5}, begin, text(stepData, 4, "one"), begin[1:], text(stepData, 4, "two")),
			with(begin, []byte{stepBDAT | byte(how)<<5, 3, 'a', 'b', 'c', 250}, []byte{stepLine, 3}, text(stepBDAT, 1, "rest"), begin[1:], text(stepData, 0, "x")),
			with(begin, text(stepData, how, "x"), []byte{stepEnd | byte(how)<<5}),
			with([]byte{stepBegin, stepCut | byte(how)<<5, byte(37 * how)}, begin[1:], text(stepData, 0, "one"), begin[1:], text(stepBDAT, 1, "two")),
			with([]byte{stepBegin, stepSip, byte(how), stepOpen | byte(how)<<5, stepBegin | 1<<5, stepMail | 1<<5, 0}, text(stepData, 0, "bob"), []byte{stepUse, stepMail, 0}, text(stepData, 0, "alice"), []byte{stepReload}, text(stepUnder, how, "\x17\x03\x03\x00\x01x")),
		)
	}
	return append(seeds,
		with(begin, []byte{stepMail | 1<<5, 0, stepLine, 4, stepMail | 1<<5, 0, stepLine, 4, stepMail | 2<<5, 0}),
		with(begin, []byte{stepLine, 48, stepLine, 0}, begin[1:], []byte{stepLine, 48, stepLine, 4}, begin[1:], text(stepBDAT, 1, "x")),
		with(begin, text(stepBDAT, 1, "one"), begin[1:], text(stepBDAT, 1, "two"), begin[1:], text(stepData, 0, "three"), []byte{stepLine, 7}),
		[]byte{stepOpen | 1<<5, stepRaw | 4<<5, 6, 'E', 'H', 'L', 'O', '\r', '\n'},
	)
}

// TestProgramsSucceed keeps FuzzSession from being content with a server that
// refuses everything.
func TestProgramsSucceed(t *testing.T) {
	s := newFuzzStand(t)
	message := []byte{stepData, 3, 'o', 'n', 'e', stepMail | 1<<5, 0, stepBDAT | 1<<5, 1, 'x'}
	for form, want := range map[byte]int{0: 1, 1: 1, 2: 1, 3: 1, 12: 1, 4: 0, 5: 0, 13: 0, 14: 0} {
		program := []byte{stepOpen | 1<<5, stepSecure, stepLine, 0, stepAuth, form<<2 | 1, stepMail | 1<<5, 0}
		if got := s.play(t, append(program, message...)); got != 2*want {
			t.Errorf("AUTH of form %d: %d messages, want %d", form, got, 2*want)
		}
	}
	stranger := []byte{stepOpen | 2<<5, stepSecure, stepLine, 0, stepMail | 3<<5, 1}
	if got := s.play(t, append(stranger, message[:5]...)); got != 1 {
		t.Errorf("without AUTH: %d messages, want 1", got)
	}
}
