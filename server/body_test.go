package server

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"postern/test/kit"
)

// unstuff gives a message to an unstuffer in blocks of some bytes.
func unstuff(in string, size int) (text, rest string, ended bool) {
	u := unstuffer{}
	for len(in) > 0 && !u.ended {
		n := min(size, len(in))
		t, r := u.block([]byte("?" + in[:n]))
		text, rest, in = text+string(t), string(r), in[n:]
	}
	return text, rest + in, u.ended
}

func TestUnstuff(t *testing.T) {
	for _, test := range []struct{ in, text, rest string }{
		{".\r\n", "", ""},
		{".\r\nQUIT\r\n", "", "QUIT\r\n"},
		{"a\r\n.\r\n", "a\r\n", ""},
		{"a\r\n.\r\n.\r\n", "a\r\n", ".\r\n"},
		{"..\r\n...\r\n.a\r\n.\r\n", ".\r\n..\r\na\r\n", ""},
		{"a.\r\n.b.\r\n\r\n..\r\n.\r\n", "a.\r\nb.\r\n\r\n.\r\n", ""},
		// Only CRLF "." CRLF is the end.
		{"a\n.\n\n.\r\n\r.\r\r\n.\n\r\n.\r\n", "a\n.\n\n.\r\n\r.\r\r\n\n\r\n", ""},
		{"a\r\n.\r\r\n.\r\n", "a\r\n\r\r\n", ""},
		{".\r.\r\n.\r\n", "\r.\r\n", ""},
		{"\r\n.\rx\r\n.\r\n", "\r\n\rx\r\n", ""},
		{"\r\n\x00.\r\n.\r\n", "\r\n\x00.\r\n", ""},
	} {
		for size := 1; size <= len(test.in); size++ {
			text, rest, ended := unstuff(test.in, size)
			if text != test.text || rest != test.rest || !ended {
				t.Errorf("%q in blocks of %d: %q, %q, %v", test.in, size, text, rest, ended)
			}
		}
	}
}

// bytewise is what an unstuffer does, as simply as it can be said.
func bytewise(in string) (text, rest string, ended bool) {
	line := true // at the start of one
	for i := 0; i < len(in); i++ {
		if line && in[i] == '.' {
			if strings.HasPrefix(in[i:], ".\r\n") {
				return text, in[i+3:], true
			}
			line = false
			continue
		}
		text += in[i : i+1]
		line = in[i] == '\n' && i > 0 && in[i-1] == '\r'
	}
	return text, "", false
}

func FuzzUnstuff(f *testing.F) {
	for _, in := range []string{"a\r\n.\r\n", "..\r\n.\r.\r\n.\n\r\n.\r\nQUIT", "\r\r\n\n.\r\n.", ".\r"} {
		for _, size := range []uint8{1, 2, 3, 200} {
			f.Add(in, size)
		}
	}
	f.Fuzz(func(t *testing.T, in string, size uint8) {
		text, rest, ended := unstuff(in, max(int(size), 1))
		wantText, wantRest, wantEnded := bytewise(in)
		if !wantEnded { // what may be the end is kept back
			text += strings.TrimPrefix(wantText, text)
		}
		if text != wantText || ended && rest != wantRest || ended != wantEnded {
			t.Errorf("%q in blocks of %d: %q, %q, %v; want %q, %q, %v", in, size, text, rest, ended, wantText, wantRest, wantEnded)
		}
	})
}

// readText has a client send text behind DATA.
func readText(t testing.TB, w *wire, client net.Conn, text string, limit int64) (string, error) {
	go func() { _, _ = io.WriteString(client, text) }()
	var b bytes.Buffer
	err := w.readMessage(&b, limit)
	return b.String(), err
}

func TestReadMessage(t *testing.T) {
	long := strings.Repeat("0123456789abcdef\r\n", 10_000)
	w, client := wireOver(t, roomy())
	for _, test := range []struct {
		text  string
		limit int64
		err   error
	}{
		{"a\r\n", 3, nil},
		{"a\r\n", 2, smtp.ErrDataTooLarge},
		{long, int64(len(long)), nil},
		{long, int64(len(long)) - 1, smtp.ErrDataTooLarge},
	} {
		got, err := readText(t, w, client, test.text+".\r\nRSET\r\nNOOP\r\n", test.limit)
		if err != test.err || err == nil && got != test.text {
			t.Errorf("of %d bytes, limit %d: %d bytes, %v", len(test.text), test.limit, len(got), err)
		}
		// go-smtp looks for the end, and then come the commands behind it.
		for _, want := range []string{finalDot, "RSET\r\n", "NOOP\r\n"} {
			p := make([]byte, 100)
			if n, err := w.Read(p); string(p[:n]) != want || err != nil {
				t.Errorf("of %d bytes: then %q, %v", len(test.text), p[:n], err)
			}
		}
	}
}

// TestReadMessageTooMuch: whoever goes on and on is not listened to.
func TestReadMessageTooMuch(t *testing.T) {
	w, client := wireOver(t, roomy())
	if _, err := readText(t, w, client, strings.Repeat("0123456789abcd\r\n", 1000), 4000); err != smtp.ErrDataTooLarge {
		t.Errorf("%v", err)
	}
	if _, over := w.isOver(); !over {
		t.Error("the connection goes on")
	}
}

// TestReadMessageSlowly: pauses change nothing, wherever they are.
func TestReadMessageSlowly(t *testing.T) {
	w, client := wireOver(t, roomy())
	go func() {
		for _, part := range []string{"a", "bc\r\n.", ".d\r", "\n", ".", "\r", "\nRSET\r\n"} {
			_, _ = io.WriteString(client, part)
			time.Sleep(2 * moment)
		}
	}()
	var b bytes.Buffer
	if err := w.readMessage(&b, 100); err != nil || b.String() != "abc\r\n.d\r\n" {
		t.Errorf("%q, %v", b.String(), err)
	}
	for _, want := range []string{finalDot, "RSET\r\n"} {
		p := make([]byte, 100)
		if n, err := w.Read(p); string(p[:n]) != want || err != nil {
			t.Errorf("then %q, %v", p[:n], err)
		}
	}
}

// TestReadMessageBeforeAlert: with TLS 1.2, crypto/tls looks at an alert before it
// returns the text in front of it, and an alert that is not all there yet costs
// none of that.
func TestReadMessageBeforeAlert(t *testing.T) {
	w, raw := wireOver(t, roomy())
	w.secure(&tls.Config{Certificates: []tls.Certificate{testCertificate()}})
	held := &holdBack{Conn: raw}
	client := tls.Client(held, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})
	go func() {
		_ = client.Handshake()
		held.on = true
		_, _ = io.WriteString(client, "abc\r\n.\r\n")
		_ = client.CloseWrite()
		_ = raw.SetWriteDeadline(time.Time{}) // which has passed since
		alert := len(held.back) - 1           // all but its last byte comes with the text
		_, _ = raw.Write(held.back[:alert])
		time.Sleep(5 * moment)
		_, _ = raw.Write(held.back[alert:])
		_ = raw.Close()
	}()
	var b bytes.Buffer
	if err := w.readMessage(&b, 100); err != nil || b.String() != "abc\r\n" {
		t.Errorf("%q, %v", b.String(), err)
	}
}

// holdBack keeps what is written, while it is on.
type holdBack struct {
	net.Conn
	on   bool
	back []byte
}

func (h *holdBack) Write(p []byte) (int, error) {
	if !h.on {
		return h.Conn.Write(p)
	}
	h.back = append(h.back, p...)
	return len(p), nil
}

// TestSlowClientsHoldNoBlock: those that have begun a message and say nothing
// have no block each.
func TestSlowClientsHoldNoBlock(t *testing.T) {
	const clients = 200
	before := heapInUse()
	var begun, ended sync.WaitGroup
	begun.Add(clients)
	var ends []net.Conn
	for range clients {
		w, client := wireOver(t, roomy())
		ends = append(ends, client)
		ended.Go(func() { _ = w.readMessage(tellOf{&begun}, 100) })
		_, _ = io.WriteString(client, "x")
	}
	begun.Wait()
	most := before + clients*int64(len(block{}))/2
	if !kit.Soon(func() bool { return heapInUse() <= most }) {
		t.Fatalf("%d clients hold %d KiB", clients, (heapInUse()-before)/1024)
	}
	for _, c := range ends {
		_ = c.Close()
	}
	ended.Wait()
}

// tellOf tells of one Write.
type tellOf struct{ begun *sync.WaitGroup }

func (w tellOf) Write(p []byte) (int, error) {
	w.begun.Done()
	return len(p), nil
}

func heapInUse() int64 {
	runtime.GC()
	runtime.GC() // what lay in a pool is gone with the second one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func BenchmarkReadMessage(b *testing.B) {
	text := strings.Repeat(strings.Repeat("x", 76)+"\r\n", 1<<20/78) + finalDot
	u := unstuffer{}
	block := make([]byte, 1+16<<10)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		u = unstuffer{}
		for rest := text; len(rest) > 0; {
			n := copy(block[1:], rest)
			rest = rest[n:]
			u.block(block[:1+n])
		}
	}
	if !u.ended {
		b.Error("no end")
	}
}
