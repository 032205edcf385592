package server

import (
	"crypto/tls"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestAfterReply: whoever made a reply hears once what became of it.
func TestAfterReply(t *testing.T) {
	for _, test := range []struct {
		name string
		then func(net.Conn)
		seen bool
	}{
		{"another command", func(c net.Conn) { _, _ = io.WriteString(c, "QUIT\r\n") }, true},
		{"an orderly end", func(c net.Conn) { _ = c.Close() }, false},
		{"a reset", func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0); _ = c.Close() }, false},
	} {
		w, client := wireOver(t, roomy())
		var told []bool
		for range 2 { // pipelined, so that one packet has both
			w.afterReply(func(seen bool) { told = append(told, seen) })
			_, _ = io.WriteString(w, "250 Ok\r\n")
		}
		if len(told) > 0 {
			t.Errorf("%s: told before anything has happened", test.name)
		}
		test.then(client)
		_, _ = w.Read(make([]byte, 100))
		_ = w.Close()
		if !slices.Equal(told, []bool{test.seen, test.seen}) {
			t.Errorf("%s: told %v", test.name, told)
		}
	}
}

func TestNewID(t *testing.T) {
	seen := make(map[string]bool)
	for range 1000 {
		id := newID()
		if len(id) != 12 || strings.ContainsFunc(id, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '2' || r > '7') }) || seen[id] {
			t.Fatalf("an odd id: %q", id)
		}
		seen[id] = true
	}
}

// TestDropDeafClient: whoever makes room does not wait for the farewell to a
// client that does not read.
func TestDropDeafClient(t *testing.T) {
	w, _ := wireOver(t, roomy())
	deaf := &deafConn{Conn: w.Conn, blocked: make(chan struct{}), cut: make(chan struct{})}
	deaf.deaf.Store(true)
	w.Conn = deaf
	closed := make(chan struct{})
	go func() { _ = w.Close(); close(closed) }()
	<-deaf.blocked
	w.drop()
	<-closed
}

// TestHandshakeAfterReply: the deadline of a reply that is long out does not
// hold for what TLS writes later.
func TestHandshakeAfterReply(t *testing.T) {
	w, client := wireOver(t, roomy())
	if err := w.send([]byte("220 2.0.0 Ready to start TLS\r\n")); err != nil {
		t.Fatal(err)
	}
	_ = w.Conn.SetWriteDeadline(time.Unix(1, 0)) // as if more than a minute had passed
	w.secure(&tls.Config{Certificates: []tls.Certificate{testCertificate()}})
	go func() {
		_, _ = io.ReadFull(client, make([]byte, len("220 2.0.0 Ready to start TLS\r\n")))
		_, _ = io.WriteString(tls.Client(client, &tls.Config{InsecureSkipVerify: true}), "NOOP\r\n")
	}()
	p := make([]byte, 100)
	if n, err := w.Read(p); err != nil || string(p[:n]) != "NOOP\r\n" {
		t.Errorf("%q, %v", p[:n], err)
	}
}
