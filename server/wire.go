package server

import (
	"bytes"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emersion/go-smtp"
)

const (
	// maxCommand bounds a command line. RFC 4954, section 4, wants 12,288 bytes
	// for one of an exchange; everything else is far shorter.
	maxCommand = 16 << 10

	// maxStrangersChunk bounds what is swallowed behind a BDAT that is refused
	// because the client has not logged in.
	maxStrangersChunk = 16 << 10

	// holdReplies is how many bytes of replies are kept together at the most.
	holdReplies = 8 << 10
)

// A wire is a client's connection as go-smtp's server sees it: without TLS,
// which lies below, and in whole commands. What go-smtp leaves open is added
// here:
//
//   - It gets one line at a time, so none of what lies behind one is in its
//     buffer when the wire has something to do there: begin TLS, or take a
//     message in (body.go). A line that the end of the connection cuts short is
//     no command, and neither is one without end.
//   - A BDAT chunk that is cut short ends with an error, not as if it were whole.
//   - Replies are held back until the server reads again, so that one EHLO or one
//     batch of pipelined commands costs one packet and not a dozen. Those that
//     go-smtp words otherwise than the RFCs do are put right (wording.go), and
//     its own refusals are logged and counted as ours are.
//   - STARTTLS ends the wire and begins another, with another session behind it:
//     nothing that was said in clear outlives it (RFC 3207, section 4.2).
//
// A wire is used by one goroutine at a time, but for what atomics guard.
type wire struct {
	*conn
	service *service
	session *session // nil before EHLO

	in    []byte  // read and not handed out yet
	line  int     // bytes of in that belong to the line being handed out
	chunk uint64  // bytes of a BDAT chunk to come behind the line
	dot   string  // the end of a message that has been taken in: go-smtp looks for it
	out   []byte  // replies held back
	first [1]byte // of the next block of a message

	command   string      // the last one, in capitals
	response  bool        // the next line is no command but answers a challenge
	extended  bool        // the client has said EHLO, not HELO
	silent    bool        // the greeting is not to be sent: the client was greeted in clear
	parted    bool        // the last line has been said
	detached  bool        // STARTTLS: another wire has the connection now
	unended   bool        // the last Write was not the end of a line
	reworded  bool        // that line went out in other words
	explained atomic.Bool // the refusal that is being made has been logged and counted
}

// Read hands out the next line, or the part of it that p has room for, or the
// next bytes of a BDAT chunk.
func (w *wire) Read(p []byte) (int, error) {
	switch {
	case w.detached:
		return 0, io.EOF
	case w.dot != "":
		n := copy(p, w.dot)
		w.dot = w.dot[n:]
		return n, nil
	case w.chunk > 0 && w.line == 0:
		return w.readChunk(p)
	}
	for w.line == 0 {
		if err := w.nextCommand(p); err != nil {
			return 0, err
		}
	}
	n := copy(p, w.in[:w.line])
	w.line -= n
	w.consume(n)
	return n, nil
}

// consume takes n bytes off in. Most connections are idle most of the time:
// nothing is kept for them.
func (w *wire) consume(n int) {
	if w.in = w.in[n:]; len(w.in) == 0 {
		w.in = nil
	}
}

// nextCommand waits for a whole line and looks at what go-smtp is to get. line
// stays zero if that is nothing.
func (w *wire) nextCommand(p []byte) error {
	if line, over := w.isOver(); over {
		return w.goodbye(line)
	}
	n, err := w.wholeLine(p)
	if err != nil {
		return err
	}
	if w.response {
		w.response, w.line = false, n
		return nil
	}
	n = w.trimBlanks(n)
	verb, argument := splitCommand(w.in[:n])
	w.command = verb
	switch {
	case verb == "STARTTLS" && w.tls == nil:
		w.consume(n)
		return w.startTLS(string(argument))
	case verb == "BDAT":
		w.expectChunk(string(argument))
	case verb == "EHLO", verb == "HELO":
		w.extended = verb == "EHLO"
	}
	w.line = n
	return nil
}

// splitCommand takes a line apart as go-smtp does, to which whatever begins with
// STARTTLS is that.
func splitCommand(line []byte) (verb string, argument []byte) {
	line = bytes.TrimRight(line, "\r\n")
	// Two bytes for a letter: some beyond US-ASCII become one of STARTTLS.
	const begin = "STARTTLS"
	if strings.HasPrefix(strings.ToUpper(string(line[:min(len(line), 2*len(begin))])), begin) {
		return begin, bytes.TrimSpace(line[len(begin):])
	}
	// The verb is kept for longer than the argument, which may be a password.
	first, argument, _ := bytes.Cut(line, []byte(" "))
	return strings.ToUpper(string(first)), bytes.TrimSpace(argument)
}

// trimBlanks takes off the blanks at the end of the line of n bytes, which go-smtp
// does not like (RFC 5321, section 4.1.1), and returns its new length.
func (w *wire) trimBlanks(n int) int {
	text := len(bytes.TrimRight(w.in[:n], " \t\r\n"))
	if !bytes.ContainsAny(w.in[text:n], " \t") {
		return n
	}
	w.in = append(append(w.in[:text], '\n'), w.in[n:]...)
	return text + 1
}

// wholeLine returns the length of the line that in begins with.
func (w *wire) wholeLine(p []byte) (int, error) {
	for {
		if i := bytes.IndexByte(w.in, '\n'); i >= 0 {
			return i + 1, nil
		}
		if len(w.in) > maxCommand {
			w.ended = smtp.ErrTooLongLine
		}
		n, err := w.fill(p)
		if err != nil {
			return 0, err
		}
		if n > 0 && len(w.in) == 0 && bytes.IndexByte(p[:n], '\n') == n-1 {
			w.in = p[:n] // as usual: nothing has to be kept
			continue
		}
		w.in = append(w.in, p[:n]...)
	}
}

// fill says farewell if it is over, sends the replies that were held back, and
// waits for the client.
func (w *wire) fill(p []byte) (int, error) {
	if line, over := w.isOver(); over {
		return 0, w.goodbye(line)
	}
	if err := w.flush(); err != nil {
		return 0, err
	}
	n, err := w.receive(p)
	if timedOut(err) {
		if line, over := w.isOver(); over { // drain has woken us
			return 0, w.goodbye(line)
		}
	}
	return n, err
}

// goodbye says the last line, once.
func (w *wire) goodbye(line string) error {
	if w.parted {
		return io.EOF
	}
	if line != "" {
		w.say(line)
	}
	if w.tls == nil || w.shaken { // or nobody could read it
		_ = w.flush()
	}
	w.parted, w.ended = true, io.EOF
	return io.EOF
}

// startTLS answers STARTTLS and hands the connection to another wire. What the
// client has sent behind the command is thrown away: whoever sits on the line
// may have put it there (CVE-2011-0411).
func (w *wire) startTLS(argument string) error {
	if argument != "" {
		w.hold(w.inspect([]byte("501 5.5.4 Syntax error (no parameters allowed)\r\n"))) // RFC 3207, section 4
		return nil
	}
	w.in = nil
	w.say("220 2.0.0 Ready to start TLS")
	if err := w.flush(); err != nil {
		return err
	}
	w.detached = true
	w.secure(w.service.tls)
	w.service.serve(&wire{conn: w.conn, service: w.service, silent: true})
	return io.EOF
}

// expectChunk notes how many bytes behind this BDAT are none of a command.
// go-smtp takes them off whether it accepts the command or not, if only it can
// read it.
func (w *wire) expectChunk(argument string) {
	args := strings.Fields(argument)
	if len(args) == 0 || len(args) > 2 || len(args) == 2 && !strings.EqualFold(args[1], "LAST") {
		return
	}
	size, err := strconv.ParseUint(args[0], 10, 32)
	if err != nil {
		return
	}
	w.chunk = size
	most := uint64(maxStrangersChunk)
	if w.loggedIn.Load() {
		most = 2 * uint64(w.service.config.MessageSizeLimit)
	}
	if size > most {
		w.hangUp(tooMuch)
	}
}

// readChunk hands out what belongs to a BDAT chunk. Its end is the end of the
// chunk and nothing else, so anything that comes before is told apart from it:
// go-smtp would take an orderly close for the end, too.
func (w *wire) readChunk(p []byte) (n int, err error) {
	p = p[:min(uint64(len(p)), w.chunk)]
	if len(w.in) > 0 {
		n = copy(p, w.in)
		w.consume(n)
	} else if n, err = w.fillMessage(p); err != nil {
		w.log.Debug("connection error", "err", err)
		return 0, replyCut // go-smtp shows any other error to the client
	}
	if n < len(p)/2 {
		quickAck(w.Conn) // the rest may wait for it
	}
	w.chunk -= uint64(n)
	return n, nil
}

// fillMessage waits for the next block of a message: each has a deadline of its
// own.
func (w *wire) fillMessage(p []byte) (int, error) {
	_ = w.SetReadDeadline(time.Now().Add(w.limits.DataTimeout))
	return w.fill(p)
}

// Write takes a line of a reply and holds it back until the server reads again.
func (w *wire) Write(p []byte) (int, error) {
	switch {
	case w.detached || w.parted || len(p) == 0:
	case w.silent:
		w.silent = false
	case w.unended:
		if !w.reworded {
			w.hold(p)
		}
	default:
		line := w.inspect(p)
		w.reworded = &line[0] != &p[0]
		w.hold(line)
	}
	w.unended = len(p) > 0 && p[len(p)-1] != '\n'
	return len(p), nil
}

// inspect notes what a line of a reply means, and words it as it should be.
func (w *wire) inspect(line []byte) []byte {
	if !w.explained.Load() { // or it is our own, or the next hop's
		line = w.wording(line)
	}
	if len(line) < 4 || line[3] == '-' {
		return line
	}
	code := string(line[:3])
	if w.command == "BDAT" && (code == "250" || code == "451") { // it has been accepted
		w.session.awaitData()
	}
	explained := w.explained.Swap(false)
	switch {
	case code == "334":
		w.response = true
	case code == "421":
	case !explained && (code[0] == '4' || code[0] == '5'):
		w.log.refusedByForm(w.command, line)
		w.refused()
	}
	return line
}

// takeBack withdraws the 354 that go-smtp has just said: the client gets the
// reply that comes next in its place.
func (w *wire) takeBack() {
	w.out = w.out[:1+bytes.LastIndexByte(w.out[:len(w.out)-1], '\n')]
	w.dot = finalDot
}

func (w *wire) say(line string) { w.hold([]byte(line + "\r\n")) }

func (w *wire) hold(line []byte) {
	if len(w.out)+len(line) > holdReplies {
		_ = w.flush()
	}
	if w.out == nil {
		w.out = replyBuffers.Get().(*replyBuffer)[:0]
	}
	w.out = append(w.out, line...)
}

// flush sends what was held back.
func (w *wire) flush() error {
	if len(w.out) == 0 {
		return nil
	}
	err := w.send(w.out)
	if cap(w.out) == len(replyBuffer{}) {
		replyBuffers.Put((*replyBuffer)(w.out[:cap(w.out)]))
	}
	w.out = nil
	return err
}

type replyBuffer [1 << 10]byte

var replyBuffers = sync.Pool{New: func() any { return new(replyBuffer) }}

// Close sends what is held back and closes the connection.
func (w *wire) Close() error {
	if w.detached {
		return nil
	}
	return w.shut(w.out, w.mayBeSending())
}

// mayBeSending reports whether the client does not expect the end: it has
// neither ended the connection itself nor said QUIT, and it has not been silent.
func (w *wire) mayBeSending() bool {
	switch w.ended {
	case nil:
		return w.command != "QUIT"
	case smtp.ErrTooLongLine:
		return true
	}
	return w.parted && (w.tls == nil || w.shaken)
}
