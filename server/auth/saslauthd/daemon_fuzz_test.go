package saslauthd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"postern/server/auth"
	"postern/test/kit"
)

// The manner of a hostile daemon: flags and a number.
const (
	ignores   = 1 << iota // does not read the request
	keepsOpen             // does not close the connection after its answer
	// The other bits are the size of a write; 0 is everything at once.
	sizeShift = iota
)

const secret = "a secret that no error contains"

// FuzzDaemon sends a request to a daemon that answers with arbitrary bytes in pieces, and may
// close the connection before it has read the request, or never. Only a complete answer with
// the word OK accepts a login, and only NO refuses it; all others are temporary errors. No
// error contains the password or a control character.
func FuzzDaemon(f *testing.F) {
	for _, sent := range []string{
		"\x00\x02OK", "\x00\x02NO", "\x00\x03OK ", "\x00\x08OK aliceNO", "\x00\x04OKAY", "\x00\x03OK\x00", "\x00\x02ok",
		"\x00\x09NO\x1b[2J\r\n\x00\x00", "\x00\x0eTRYAGAIN later", "\x00\x02O", "\x00\x00", "\x00", "", "\xff\xffOK",
		"\x00\x05NO no\x00\x02OK", "\x02\x00NO " + strings.Repeat("x", 509),
	} {
		for _, manner := range []byte{0, ignores, keepsOpen, 1 << sizeShift, ignores | keepsOpen | 3<<sizeShift} {
			f.Add([]byte(sent), manner, "alice", secret)
		}
	}
	f.Add([]byte("\x00\x02OK"), byte(0), "alice\x00root", "secret")
	f.Add([]byte("\x00\x02OK"), byte(ignores), strings.Repeat("x", 70000), "secret")
	f.Add([]byte("\x00\x02OK"), byte(0), "", "")
	d := newHostileDaemon(f)
	f.Fuzz(func(t *testing.T, sent []byte, manner byte, login, password string) {
		id, err := d.ask(sent, manner, login, password)
		verdict, whole := parse(sent)
		switch {
		case err == nil:
			if verdict != OK || !sendable(login, password) || id != (auth.Identity{User: login, Store: Kind}) {
				t.Fatalf("%q authenticates %+v", sent, id)
			}
		case isFailure(err):
			if verdict != NO && sendable(login, password) {
				t.Fatalf("%q refuses: %v", sent, err)
			}
		case whole && verdict != Neither && manner&ignores == 0 && sendable(login, password):
			t.Fatalf("%q is a temporary error: %v", sent, err)
		}
		if err != nil {
			checkText(t, err, password == secret && !strings.Contains(login+string(sent), secret))
		}
	})
}

// parse parses an answer as saslauthd's clients do: a length, and a word that ends there or at
// a blank.
func parse(answer []byte) (v Verdict, whole bool) {
	if len(answer) < 2 || len(answer) < 2+int(answer[0])<<8+int(answer[1]) {
		return Neither, false
	}
	word, _, _ := bytes.Cut(answer[2:2+int(answer[0])<<8+int(answer[1])], []byte(" "))
	switch string(word) {
	case "OK":
		return OK, true
	case "NO":
		return NO, true
	}
	return Neither, true
}

// sendable reports whether login and password fit into the protocol.
func sendable(login, password string) bool {
	return len(login) <= MaxField && len(password) <= MaxField && !strings.Contains(login+password, "\x00")
}

func isFailure(err error) bool {
	_, ok := errors.AsType[*auth.Failure](err)
	return ok
}

// checkText requires a short text without control characters, and without the password if
// noSecret is set.
func checkText(t *testing.T, err error, noSecret bool) {
	t.Helper()
	text := err.Error()
	if noSecret && strings.Contains(text, secret) {
		t.Errorf("the password is in %q", text)
	}
	if len(text) > 2000 || strings.ContainsFunc(text, unicode.IsControl) {
		t.Errorf("too long or with control characters: %q", text)
	}
}

// A hostileDaemon serves one connection at a time, with the behaviour given to ask.
type hostileDaemon struct {
	listener net.Listener
	store    *Store
}

func newHostileDaemon(t testing.TB) *hostileDaemon {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mux")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &hostileDaemon{l, New(Config{Path: path, Service: "smtp", Realm: "example.org"})}
}

// ask sends one request, if it is sendable, to a daemon that answers sent. It returns after
// both ends of the connection were closed.
func (d *hostileDaemon) ask(sent []byte, manner byte, login, password string) (auth.Identity, error) {
	ctx, cancel := context.WithTimeout(context.Background(), kit.Patience)
	defer cancel()
	if !sendable(login, password) {
		return d.store.VerifyPassword(ctx, nil, login, password) // does not connect
	}
	served := make(chan struct{})
	request, _ := Request{Login: login, Password: password, Service: d.store.cfg.Service, Realm: d.store.cfg.Realm}.Append(nil)
	go func() {
		defer close(served)
		if conn, err := d.listener.Accept(); err == nil {
			misbehave(conn, sent, manner, len(request), cancel)
		}
	}()
	id, err := d.store.VerifyPassword(ctx, nil, login, password)
	<-served
	return id, err
}

// misbehave answers in the given manner. It calls giveUp if the client would wait for an
// answer that never arrives.
func misbehave(conn net.Conn, sent []byte, manner byte, request int, giveUp func()) {
	defer conn.Close()
	_, whole := parse(sent)
	if manner&ignores == 0 {
		_, _ = io.CopyN(io.Discard, conn, int64(request))
	}
	size := int(manner >> sizeShift)
	if size == 0 {
		size = len(sent)
	}
	for len(sent) > 0 {
		n := min(size, len(sent))
		if _, err := conn.Write(sent[:n]); err != nil {
			return
		}
		sent = sent[n:]
	}
	if manner&keepsOpen != 0 {
		if !whole {
			giveUp()
		}
		_, _ = io.Copy(io.Discard, conn) // until the client closes the connection
	}
}
