package test

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"postern/test/kit"
)

// A delivery is one message as it was received.
type delivery struct {
	From   string
	To     []string
	Params []string // of MAIL, and of each RCPT
	Data   []byte   // without dot-stuffing, otherwise unchanged
}

// A sink is the mail server that receives all messages. It implements only the SMTP that
// Postfix and postern need, checks line ends, and shares no code with the servers under
// test.
type sink struct {
	Addr string
	port int

	mu       sync.Mutex
	arrived  []delivery
	conns    map[net.Conn]bool
	listener net.Listener
	handlers sync.WaitGroup
}

func startSink(t *testing.T) *sink {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	kit.Must(t, err)
	s := &sink{
		Addr:     l.Addr().String(),
		port:     l.Addr().(*net.TCPAddr).Port,
		conns:    map[net.Conn]bool{},
		listener: l,
	}
	s.handlers.Go(s.accept)
	t.Cleanup(s.stop)
	return s
}

func (s *sink) stop() {
	s.listener.Close()
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.handlers.Wait()
}

func (s *sink) accept() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns[c] = true
		s.mu.Unlock()
		s.handlers.Go(func() { s.serve(c) })
	}
}

func (s *sink) serve(c net.Conn) {
	defer func() {
		c.Close()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
	d := sinkSession{sink: s, conn: c, in: bufio.NewReader(c)}
	d.send("220 sink.example.net ESMTP")
	for d.next() {
	}
}

// A sinkSession is one connection to the sink.
type sinkSession struct {
	sink *sink
	conn net.Conn
	in   *bufio.Reader
	mail delivery
}

func (d *sinkSession) send(line string) { _, _ = io.WriteString(d.conn, line+"\r\n") }

// next replies to one command, and reports whether another one may follow.
func (d *sinkSession) next() bool {
	line, err := d.in.ReadString('\n')
	if err != nil {
		return false
	}
	verb, arg, _ := strings.Cut(strings.TrimRight(line, "\r\n"), " ")
	switch strings.ToUpper(verb) {
	case "EHLO":
		d.send("250-sink.example.net\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250 ENHANCEDSTATUSCODES")
	case "MAIL":
		d.mail = delivery{From: path(arg), Params: []string{params(arg)}}
		d.send("250 2.1.0 Ok")
	case "RCPT":
		d.mail.To = append(d.mail.To, path(arg))
		d.mail.Params = append(d.mail.Params, params(arg))
		d.send("250 2.1.5 Ok")
	case "DATA":
		return d.data()
	case "RSET", "NOOP":
		d.send("250 2.0.0 Ok")
	case "QUIT":
		d.send("221 2.0.0 Bye")
		return false
	default:
		d.send("502 5.5.1 Not here")
	}
	return true
}

func (d *sinkSession) data() bool {
	d.send("354 End data with <CR><LF>.<CR><LF>")
	data, err := readData(d.in)
	if err != nil {
		return false
	}
	d.mail.Data = data
	d.sink.mu.Lock()
	d.sink.arrived = append(d.sink.arrived, d.mail)
	d.sink.mu.Unlock()
	d.send("250 2.0.0 Ok: kept by the sink")
	return true
}

// path returns the address of FROM:<...> and TO:<...>.
func path(arg string) string {
	_, after, _ := strings.Cut(arg, "<")
	addr, _, _ := strings.Cut(after, ">")
	return addr
}

// params returns the parameters after FROM:<...> and TO:<...>.
func params(arg string) string {
	_, after, _ := strings.Cut(arg, "> ")
	return after
}

// readData reads up to CRLF.CRLF, and accepts nothing similar as the end.
func readData(in *bufio.Reader) ([]byte, error) {
	var data []byte
	fresh := true // the line before ended in CRLF
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return nil, err
		}
		if fresh && string(line) == ".\r\n" {
			return data, nil
		}
		if fresh && line[0] == '.' {
			line = line[1:]
		}
		data = append(data, line...)
		fresh = bytes.HasSuffix(line, []byte("\r\n"))
	}
}

// deliveries returns the messages so far that contain mark.
func (s *sink) deliveries(mark string) []delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []delivery
	for _, d := range s.arrived {
		if bytes.Contains(d.Data, []byte(mark)) {
			found = append(found, d)
		}
	}
	return found
}

// wait waits for the only message that contains mark.
func (s *sink) wait(t *testing.T, mark string) delivery {
	t.Helper()
	kit.Eventually(t, "the message "+mark+" to reach the sink", func() bool {
		return len(s.deliveries(mark)) > 0
	})
	found := s.deliveries(mark)
	if len(found) != 1 {
		t.Fatalf("%d copies of %s arrived, want one", len(found), mark)
	}
	return found[0]
}
