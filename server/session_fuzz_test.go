package server

import (
	"encoding/base64"
	"fmt"
	"testing"
)

// FuzzSession runs a program of bytes: what one to four clients do to a server with a
// policy, two users with different rules for senders, and a next hop that may misbehave.
// The connections are pipes, cut into pieces of any size, and cut off anywhere. judge
// checks invariants of the whole package:
//
//   - No client logs in without a password. In clear, or without AUTH, no message is
//     accepted. No user sends as another, and the relay is not asked about recipients
//     that the policy refuses.
//   - Each command has one reply, and the messages that the hop has accepted are those for
//     which the clients have received 250: with the same senders, recipients and octets
//     as a second, simpler reader finds in what the clients have sent.
//   - What the hop receives is clean: CRLF only, no NUL, dots stuffed, ended once.
//   - In the end every connection is closed, every staged message and goroutine is gone,
//     nothing has panicked, and no password is in the log.
//
// A program is a list of steps; see fuzzSteps. Each begins with a byte whose low five
// bits are the step and whose high three its variant.
func FuzzSession(f *testing.F) {
	for _, seed := range sessionSeeds() {
		f.Add(seed)
	}
	s := newFuzzServer(f)
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
	stepHop:    func(p *fuzzPlay, how int) { p.server.mode.Store(int32(how)) },
	stepUnder:  (*fuzzPlay).under,
	stepReload: (*fuzzPlay).reload,
}

// A fuzzPlay is a program in execution.
type fuzzPlay struct {
	t       *testing.T
	server  *fuzzServer
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

// queue adds text to what is sent with the next flush.
func (p *fuzzPlay) queue(text string) {
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

// open makes another connection, to one of the listeners and for one version of TLS.
func (p *fuzzPlay) open(how int) {
	if len(p.clients) < maxClients {
		p.client.flush()
		p.add(fuzzListeners[how&3%len(fuzzListeners)], how>>2)
	}
}

func (p *fuzzPlay) add(listener string, version int) {
	p.client = p.server.dial(listener, version)
	p.clients = append(p.clients, p.client)
	p.client.settle()
}

// begin goes to the 235 of AUTH on the current connection.
func (p *fuzzPlay) begin(how int) {
	if p.client.listener == starttlsListener {
		p.queue("EHLO client.example.org\r\nSTARTTLS\r\n")
		p.flush()
	}
	p.client.pending = nil
	if p.client.tls == nil {
		p.client.handshake()
	}
	u := fuzzUsers[how&1]
	p.queue("EHLO client.example.org\r\nAUTH PLAIN " + encode("\x00"+u.login+"\x00"+u.password) + "\r\n")
	p.flush()
}

func encode(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

// line sends one of the commands, with one of four line ends.
func (p *fuzzPlay) line(how int) {
	p.queue(fuzzLines[int(p.byte())%len(fuzzLines)] + [4]string{"\r\n", "\n", "", " \t\r\n"}[how&3])
	p.flushIf(how)
}

func (p *fuzzPlay) raw(how int) {
	p.queue(string(p.bytes()))
	p.flushIf(how)
}

// piece sends a piece of a message, up to 2,000 times.
func (p *fuzzPlay) piece(how int) {
	text := fuzzPieces[int(p.byte())%len(fuzzPieces)]
	for range [4]int{1, 2, 70, 2000}[how&3] {
		p.queue(text)
	}
	p.flushIf(how)
}

// auth begins an exchange of one of the forms, for one of the users.
func (p *fuzzPlay) auth(how int) {
	b := int(p.byte())
	u := fuzzUsers[b&3]
	form := b >> 2 % 16
	plain := "\x00" + u.login + "\x00" + u.password
	switch form {
	case 0:
		p.queue("AUTH PLAIN " + encode(plain) + "\r\n")
	case 1:
		p.queue("AUTH PLAIN\r\n" + encode(plain) + "\r\n")
	case 2:
		p.queue("AUTH LOGIN\r\n" + encode(u.login) + "\r\n" + encode(u.password) + "\r\n")
	case 3:
		p.queue("AUTH LOGIN " + encode(u.login) + "\r\n" + encode(u.password) + "\r\n")
	case 4:
		p.queue("AUTH LOGIN\r\n*\r\n")
	case 5:
		p.queue("AUTH PLAIN\r\n*\r\n")
	case 6:
		p.queue("AUTH LOGIN =\r\n\r\n\r\n")
	case 7:
		p.queue("AUTH PLAIN !!!!\r\n")
	case 8:
		p.queue("auth plain " + encode("alice"+plain) + "\r\n") // acts as alice
	case 9:
		p.queue("AUTH PLAIN " + encode(plain+"\x00") + "\r\n")
	case 10:
		p.queue("AUTH LOGIN\r\nMAIL FROM:<alice@example.org>\r\nQUIT\r\n")
	case 11:
		p.queue("AUTH PLAIN =\r\n")
	default:
		p.scram(u, form&3)
		return
	}
	p.flushIf(how)
}

// scram is an exchange of SCRAM-SHA-256, as far as the server replies: a correct one, one
// that is cancelled, one with a wrong proof, or one without the last response.
func (p *fuzzPlay) scram(u fuzzUser, how int) {
	conversation := p.server.scram(u)
	message, err := conversation.Step("")
	p.queue("AUTH SCRAM-SHA-256 " + encode(message) + "\r\n")
	p.flush()
	for i := 0; err == nil; i++ {
		challenge, ok := lastChallenge(p.client.layer().received)
		if !ok {
			return
		}
		if how == 1 && i == 1 || how == 3 && i == 0 {
			p.queue("*\r\n")
			p.flush()
			return
		}
		message, err = conversation.Step(challenge)
		if how == 2 && i == 0 && len(message) > 8 {
			message = message[:len(message)-4] + "AAA="
		}
		p.queue(encode(message) + "\r\n")
		p.flush()
	}
}

// secure begins TLS: correctly, with more after STARTTLS or in its place, or without it.
func (p *fuzzPlay) secure(how int) {
	if p.client.tls != nil {
		return
	}
	starttls := p.client.listener == starttlsListener
	switch {
	case !starttls || how == 3:
	case how == 1:
		p.queue("STARTTLS\r\nEHLO injected.example.org\r\nMAIL FROM:<alice@example.org>\r\n")
	case how == 2:
		p.queue("STARTTLS\r\n") // and the handshake right after it
	case how == 4:
		p.queue("STARTTLS please\r\nSTARTTLS\r\n")
	case how == 5:
		p.queue("STARTTLS\r\n" + string(p.bytes()))
	case how == 6:
		p.queue("STARTTLS\r\nSTARTTLS\r\n")
	default:
		p.queue("STARTTLS\r\n")
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
		p.queue(string(p.bytes())) // in the place of a handshake
		p.flush()
		return
	}
	p.client.handshake()
}

// mail sends MAIL and RCPT.
func (p *fuzzPlay) mail(how int) {
	p.queue("MAIL FROM:<" + [4]string{"alice@example.org", "bob@example.org", "", "guest@example.net"}[how&3] + ">\r\n")
	p.queue("RCPT TO:<" + fuzzRecipients[int(p.byte())%len(fuzzRecipients)] + ">\r\n")
	p.flushIf(how)
}

// data sends DATA and a message, with or without its end.
func (p *fuzzPlay) data(how int) {
	p.queue("DATA\r\n")
	if how&1 != 0 {
		p.flush()
	}
	p.queue("Subject: x\r\n\r\n")
	p.queue(string(p.bytes()))
	if how&2 == 0 {
		p.queue("\r\n.\r\n")
	}
	p.flushIf(how)
}

// bdat sends a chunk, whose size in the command may be wrong.
func (p *fuzzPlay) bdat(how int) {
	chunk := p.bytes()
	size := len(chunk)
	if how&2 != 0 {
		size += int(int8(p.byte()))
	}
	p.queue(fmt.Sprintf("BDAT %d%s\r\n%s", size, [2]string{"", " LAST"}[how&1], chunk))
	p.flushIf(how)
}

// sip sets how much the server reads at once from now on.
func (p *fuzzPlay) sip(int) {
	n := int(p.byte())
	p.client.mu.Lock()
	defer p.client.mu.Unlock()
	p.client.pipe.sip = n
}

// cut sets where the stream ends, by FIN or RST.
func (p *fuzzPlay) cut(how int) {
	n := int(p.byte()) | (how>>1)<<8
	p.client.cut(n, how&1 != 0)
}

// end closes the connection.
func (p *fuzzPlay) end(how int) {
	if how&2 != 0 {
		p.client.pending = nil // without what is pending
	}
	p.client.end(how&1 != 0, how&4 != 0)
}

func (p *fuzzPlay) use(how int) { p.client = p.clients[how%len(p.clients)] }

// under sends octets without TLS while TLS is in use.
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
	if err := p.server.server.Reload(p.server.parts); err != nil {
		p.t.Fatal(err)
	}
}

// TestProgramsSucceed checks that the programs of FuzzSession do send messages: a server
// that refused everything would pass its checks.
func TestProgramsSucceed(t *testing.T) {
	s := newFuzzServer(t)
	message := []byte{stepData, 3, 'o', 'n', 'e', stepMail | 1<<5, 0, stepBDAT | 1<<5, 1, 'x'}
	for form, want := range map[byte]int{0: 1, 1: 1, 2: 1, 3: 1, 12: 1, 4: 0, 5: 0, 13: 0, 14: 0} {
		program := []byte{stepOpen | 1<<5, stepSecure, stepLine, 0, stepAuth, form<<2 | 1, stepMail | 1<<5, 0}
		if got := s.play(t, append(program, message...)); got != 2*want {
			t.Errorf("AUTH of form %d: %d messages, want %d", form, got, 2*want)
		}
	}
	without := []byte{stepOpen | 2<<5, stepSecure, stepLine, 0, stepMail | 3<<5, 1}
	if got := s.play(t, append(without, message[:5]...)); got != 1 {
		t.Errorf("without AUTH: %d messages, want 1", got)
	}
}
