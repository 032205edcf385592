package relay

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A hostileHop is a hop that follows a script of bytes: at each step, which is a connection,
// a line or an end of data, the next byte selects a wrong reaction. After the end of the
// script its replies are correct. It records what it receives and sends, so that the test
// can check the results of the client.
type hostileHop struct {
	unix, tcp, implicit net.Listener
	tls                 *tls.Config
	scene               atomic.Pointer[scene]
	accepts             sync.WaitGroup
}

// A scene is one script and its result.
type scene struct {
	auth      bool // offer AUTH
	pipeline  bool // offer PIPELINING
	slow      bool // send everything byte by byte
	impatient bool // the client has short timeouts, so the hop can stall

	mu      sync.Mutex
	script  []byte
	records []*record
	faults  []string
	flooded int // bytes that a client has read of an endless reply
	open    int
}

// A record is the result of one DATA command.
type record struct {
	to        []string // recipients that were sent to the hop
	sent      string   // by the hop, from the reply to DATA on
	body      string
	complete  bool // the final dot has arrived
	malformed bool // the hop has sent something else than exactly one reply on this connection
	sender    string
}

func newHostileHop(t testing.TB, config *tls.Config) *hostileHop {
	t.Helper()
	h := &hostileHop{tls: config}
	t.Cleanup(h.accepts.Wait) // after the listeners are closed
	h.unix = h.listen(t, "unix", filepath.Join(t.TempDir(), "smtp"), false)
	h.tcp = h.listen(t, "tcp", "127.0.0.1:0", false)
	h.implicit = h.listen(t, "tcp", "127.0.0.1:0", true)
	return h
}

func (h *hostileHop) listen(t testing.TB, network, address string, implicit bool) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	h.accepts.Go(func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			s := h.scene.Load()
			s.count(+1)
			h.accepts.Go(func() {
				defer s.count(-1)
				defer raw.Close()
				c := &hopConn{scene: s, raw: raw, config: h.tls}
				c.use(raw)
				if implicit {
					c.use(tls.Server(raw, h.tls))
				}
				c.serve()
			})
		}
	})
	return l
}

func (s *scene) count(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open += n
}

// connections returns the number of open connections.
func (s *scene) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

// next takes n bytes of the script, or as many as there are.
func (s *scene) next(n int) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	n = min(n, len(s.script))
	taken := s.script[:n]
	s.script = s.script[n:]
	return taken
}

func (s *scene) byte() int {
	if b := s.next(1); len(b) == 1 {
		return int(b[0])
	}
	return 0
}

func (s *scene) fault(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, fmt.Sprintf(format, args...))
}

// A hopConn is one connection to a hostile hop.
type hopConn struct {
	scene  *scene
	raw    net.Conn
	conn   net.Conn // raw, or TLS over it
	in     *bufio.Reader
	config *tls.Config
	secure bool

	sender    string
	to        []string
	malformed bool
	auth      bool    // AUTH has come
	login     bool    // the next line is a password
	record    *record // since DATA
}

func (c *hopConn) use(n net.Conn) {
	c.conn, c.in = n, bufio.NewReader(n)
	_, c.secure = n.(*tls.Conn)
}

var errHungUp = errors.New("the hostile hop hangs up")

func (c *hopConn) serve() {
	_ = c.raw.SetDeadline(time.Now().Add(time.Minute))
	err := c.step("220 hop.example.org ESMTP\r\n")
	for err == nil {
		var line string
		if line, err = c.line(); err == nil {
			err = c.command(line)
		}
	}
}

// line reads a line. It is a fault if the line is not clean.
func (c *hopConn) line() (string, error) {
	line, err := c.in.ReadString('\n')
	if err != nil {
		return "", err
	}
	text, ok := strings.CutSuffix(line, "\r\n")
	if !ok || strings.ContainsAny(text, "\r\x00") {
		c.scene.fault("unclean line %q", line)
	}
	return text, nil
}

func (c *hopConn) command(line string) error {
	verb, _, _ := strings.Cut(line, " ")
	switch {
	case c.login:
		c.login = false
		return c.step("235 2.7.0 Ok\r\n")
	case verb == "DATA":
		return c.data()
	case verb == "STARTTLS" && !c.secure:
		return c.startTLS()
	case verb == "QUIT":
		_ = c.answer("221 2.0.0 Bye\r\n")
		return errHungUp
	case verb == "MAIL":
		c.sender, c.to = inBrackets(line), nil
	case verb == "RSET":
		c.to = nil
	case verb == "RCPT":
		c.to = append(c.to, inBrackets(line))
	case verb == "AUTH":
		c.auth, c.login = true, strings.HasPrefix(line, "AUTH LOGIN")
	case verb == "*" && c.auth: // RFC 4954, section 4: AUTH is cancelled
	case verb != "EHLO":
		c.scene.fault("this is not a command: %q", line)
	}
	return c.step(c.usual(verb))
}

func inBrackets(line string) string {
	_, rest, _ := strings.Cut(line, "<")
	address, _, _ := strings.Cut(rest, ">")
	return address
}

func (c *hopConn) usual(verb string) string {
	switch {
	case c.login:
		return "334 UGFzc3dvcmQ6\r\n"
	case verb == "AUTH":
		return "235 2.7.0 Ok\r\n"
	case verb != "EHLO":
		return "250 2.0.0 Ok\r\n"
	}
	hello := "250-hop.example.org\r\n"
	if !c.secure {
		hello += "250-STARTTLS\r\n"
	}
	if c.scene.auth {
		hello += "250-AUTH LOGIN PLAIN\r\n"
	}
	if c.scene.pipeline {
		hello += "250-PIPELINING\r\n"
	}
	return hello + "250-8BITMIME\r\n250-DSN\r\n250-SMTPUTF8\r\n250 SIZE 10240000\r\n"
}

func (c *hopConn) startTLS() error {
	if err := c.step("220 2.0.0 Go ahead\r\n"); err != nil {
		return err
	}
	c.use(tls.Server(c.raw, c.config))
	return nil
}

// data reads a body if the reply to DATA has begun with 354.
func (c *hopConn) data() error {
	c.record = &record{to: c.to, sender: c.sender}
	c.scene.mu.Lock()
	c.scene.records = append(c.scene.records, c.record)
	c.scene.mu.Unlock()
	defer func() { c.record, c.to = nil, nil }()
	if err := c.step("354 End data with <CR><LF>.<CR><LF>\r\n"); err != nil || !strings.HasPrefix(c.record.sent, "354") {
		return err
	}
	var body strings.Builder
	for {
		line, err := c.line()
		if err != nil {
			return err
		}
		if line == "." {
			break
		}
		stuffed, dot := strings.CutPrefix(line, ".")
		if dot && !strings.HasPrefix(stuffed, ".") {
			c.scene.fault("a dot that is not stuffed: %q", line)
		}
		body.WriteString(stuffed + "\r\n")
	}
	c.scene.mu.Lock()
	c.record.body, c.record.complete = body.String(), true
	c.scene.mu.Unlock()
	return c.step("250 2.0.0 Ok: queued as 4711\r\n")
}

var oneReply = regexp.MustCompile(`^(?:[2-5]\d\d-[^\r\n]*\r\n)*[2-5]\d\d(?: [^\r\n]*)?\r\n`)

// answer records and sends text. If it is not a complete reply, the hop disconnects
// afterwards, or stalls first.
func (c *hopConn) answer(text string) error {
	err := c.send(text)
	if err == nil && !oneReply.MatchString(text) {
		return c.stall()
	}
	return err
}

func (c *hopConn) send(text string) error {
	whole := oneReply.FindString(text) == text && text != ""
	c.scene.mu.Lock()
	c.malformed = c.malformed || !whole
	if c.record != nil {
		c.record.sent += text
		c.record.malformed = c.malformed
	}
	c.scene.mu.Unlock()
	if !c.scene.slow {
		_, err := io.WriteString(c.conn, text)
		return err
	}
	for i := range len(text) {
		if _, err := c.conn.Write([]byte{text[i]}); err != nil {
			return err
		}
	}
	return nil
}

// step reacts as the script selects, or sends usual.
func (c *hopConn) step(usual string) error {
	s := c.scene
	switch s.byte() % 14 {
	case 1:
		return c.answer(canned[s.byte()%len(canned)])
	case 2:
		return c.answer(string(s.next(s.byte())))
	case 3:
		return errHungUp
	case 4:
		if tcp, ok := c.raw.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		return errHungUp
	case 5:
		_ = c.answer(usual)
		return errHungUp
	case 6:
		return c.answer(usual + canned[s.byte()%len(canned)])
	case 7:
		return c.flood("250-and so on\r\n")
	case 8:
		return c.flood("250 and so on ")
	case 9:
		return c.stall()
	case 10: // another code
		return c.answer(fmt.Sprintf("%03d", 100+2*s.byte()) + usual[min(3, len(usual)):])
	case 11:
		_ = c.answer(usual[:min(s.byte(), len(usual))])
		return errHungUp
	case 12:
		return c.answer(canned[s.byte()%len(canned)] + usual)
	case 13:
		if err := c.answer(canned[s.byte()%len(canned)]); err != nil {
			return err
		}
		return errHungUp
	}
	return c.answer(usual)
}

// flood sends piece again and again, as long as the client reads.
func (c *hopConn) flood(piece string) error {
	block := bytes.Repeat([]byte(piece), 100)
	c.scene.mu.Lock()
	c.malformed = true
	if c.record != nil {
		c.record.malformed = true
		c.record.sent += piece
	}
	c.scene.mu.Unlock()
	for {
		n, err := c.conn.Write(block)
		c.scene.mu.Lock()
		c.scene.flooded += n
		much := c.scene.flooded > 4<<20
		c.scene.mu.Unlock()
		if err != nil || much {
			return errHungUp
		}
	}
}

// stall sends nothing, for longer than an impatient client waits, and disconnects.
func (c *hopConn) stall() error {
	if c.scene.impatient {
		_ = c.raw.SetReadDeadline(time.Now().Add(4 * impatience))
		_, _ = io.Copy(io.Discard, c.raw)
	}
	return errHungUp
}

// canned are the replies that a hop may send instead of the correct one, or in addition.
var canned = []string{
	"250 2.0.0 Ok: queued as 0815\r\n",
	"250-2.0.0 more\r\n250 2.0.0 than one line\r\n",
	"354 go\r\n",
	"220 hop\r\n",
	"421 4.7.0 Bye\r\n",
	"450 4.2.0 Later\r\n",
	"550 5.1.1 \x1b[31m\x07No\x00 such\x7f user\r\n",
	"550-5.1.1 one\r\n550-5.1.1 \x1b]0;two\x07\r\n550 5.1.1 three\r\n",
	"550 2.0.0 Sure\r\n",
	"451 4.99999999999999999999.1 x\r\n",
	"552 5.3.4 \xff\xfe\xc3\xa4\xe2\x80\xae\xe2\x80\xa8\r\n",
	"250\r\n",
	"251 2.1.5 Will forward\r\n",
	"200 2.0.0 What\r\n",
	"299 2.0.0 What\r\n",
	"300 3.0.0 What\r\n",
	"334 \r\n",
	"334 AAAA\r\n",
	"235 2.7.0 Ok\r\n",
	"530 5.7.0 Authentication required\r\n",
	"535 5.7.8 No\r\n",
	"599 9.9.9 x\r\n",
	"250 2.0.0 Ok\n",
	"250 2.0.0 O\rk\r\n",
	"250-2.0.0 Ok\r\n550 5.0.0 No\r\n",
	"250 2.0.0 Ok",
	"25",
	"\r\n",
	"HTTP/1.1 400 Bad Request\r\n",
	"\x15\x03\x01\x00\x02\x02\x46",
	"550 5.7.1 " + strings.Repeat("x", 1880) + "\r\n",
	"550 5.7.1 " + strings.Repeat("x", 1900) + "\r\n",
	strings.Repeat("550-5.7.1 x\r\n", 63) + "550 5.7.1 x\r\n",
	strings.Repeat("250-2.0.0 x\r\n", 64) + "250 2.0.0 x\r\n",
	"",
}
