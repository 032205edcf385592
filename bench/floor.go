package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"time"
)

// floors are the servers that this program implements. It starts each in another process,
// "bench NAME ADDRESS FOLDER". The function is called for each connection and closes it.
var floors = map[string]func(net.Conn, *tls.Config){
	"floor": serveHandshake,
	"rote":  serveRote,
}

// serveFloor accepts connections at addr until the process is killed. The
// folder has the certificate.
func serveFloor(serve func(net.Conn, *tls.Config), addr, dir string) error {
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	config := &tls.Config{Certificates: []tls.Certificate{cert}}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go serve(conn, config)
	}
}

// serveHandshake does the least that any server does for a client: the TLS handshake.
func serveHandshake(conn net.Conn, config *tls.Config) {
	c := tls.Server(conn, config)
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	_ = c.Handshake() // the client reports the error
	_ = c.Close()
}

// roteTime bounds a connection to the rote server. It is longer than any round.
const roteTime = time.Hour

// A rote is one session of the rote server, the simplest server with the dialogue of a
// submission server: a goroutine for each connection, bufio and crypto/tls with their
// defaults, a flush for each reply. The replies are fixed. It reads a message up to the
// final dot and discards it; it checks no password, keeps no state of the transaction, and
// relays nothing. Lines may be as long as the buffer of bufio, 4 KiB.
type rote struct {
	conn   net.Conn
	in     *bufio.Reader
	out    *bufio.Writer
	config *tls.Config // nil inside TLS
}

// errRoteQuit ends a session after QUIT.
var errRoteQuit = errors.New("QUIT")

func serveRote(conn net.Conn, config *tls.Config) {
	_ = conn.SetDeadline(time.Now().Add(roteTime))
	r := &rote{config: config}
	r.use(conn)
	err := r.reply("220 rote.example.org ESMTP\r\n")
	for err == nil {
		err = r.command()
	}
	_ = r.conn.Close()
}

// use reads and writes c from now on. Input that was read ahead is discarded
// (RFC 3207, section 4.2).
func (r *rote) use(c net.Conn) {
	r.conn, r.in, r.out = c, bufio.NewReader(c), bufio.NewWriter(c)
}

// command reads one command and replies.
func (r *rote) command() error {
	line, err := r.in.ReadSlice('\n')
	if err != nil {
		return err
	}
	verb, _, _ := strings.Cut(strings.TrimRight(string(line), "\r\n"), " ")
	switch strings.ToUpper(verb) {
	case "EHLO":
		return r.hello()
	case "STARTTLS":
		return r.startTLS()
	case "AUTH":
		return r.reply("235 2.7.0 Authentication successful\r\n")
	case "MAIL", "RCPT":
		return r.reply("250 2.1.0 OK\r\n")
	case "DATA":
		return r.data()
	case "QUIT":
		return errors.Join(r.reply("221 2.0.0 Bye\r\n"), errRoteQuit)
	}
	return r.reply("500 5.5.2 Command not recognized\r\n")
}

// hello replies to EHLO with extensions that postern also offers; with AUTH only inside
// TLS.
func (r *rote) hello() error {
	const before = "250-rote.example.org\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250-CHUNKING\r\n"
	if r.config != nil {
		return r.reply(before + "250-STARTTLS\r\n250 SIZE 36700160\r\n")
	}
	return r.reply(before + "250-AUTH PLAIN LOGIN\r\n250 SIZE 36700160\r\n")
}

func (r *rote) startTLS() error {
	if r.config == nil {
		return r.reply("503 5.5.1 Already running in TLS\r\n")
	}
	if err := r.reply("220 2.0.0 Ready to start TLS\r\n"); err != nil {
		return err
	}
	secured := tls.Server(r.conn, r.config)
	r.config = nil
	r.use(secured)
	return secured.Handshake()
}

// data reads a message up to the line with only a dot.
func (r *rote) data() error {
	if err := r.reply("354 Go ahead\r\n"); err != nil {
		return err
	}
	begin := true // of a line
	for {
		part, err := r.in.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull): // the line continues
			begin = false
			continue
		case err != nil:
			return err
		case begin && string(part) == ".\r\n":
			return r.reply("250 2.0.0 OK: discarded\r\n")
		}
		begin = true
	}
}

func (r *rote) reply(text string) error {
	if _, err := io.WriteString(r.out, text); err != nil {
		return err
	}
	return r.out.Flush()
}
