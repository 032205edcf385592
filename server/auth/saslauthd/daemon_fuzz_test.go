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

// How a hostile daemon behaves, besides what it says.
const (
	deaf    = 1 << iota // does not read the question
	lingers             // does not hang up when it has said all
	// The rest of the byte is how much it says at a time; 0 is everything.
	sipShift = iota
)

const untold = "a secret that nobody is told"

// FuzzDaemon asks a daemon that says anything at all, in pieces, and may hang up
// before it has heard the question or never. Only the whole word OK, in an answer
// that has come as a whole, lets anybody in; only NO keeps somebody out; all
// else is a temporary error. No error tells the password, or is unfit for a line
// of the log.
func FuzzDaemon(f *testing.F) {
	for _, said := range []string{
		"\x00\x02OK", "\x00\x02NO", "\x00\x03OK ", "\x00\x08OK aliceNO", "\x00\x04OKAY", "\x00\x03OK\x00", "\x00\x02ok",
		"\x00\x09NO\x1b[2J\r\n\x00\x00", "\x00\x0eTRYAGAIN later", "\x00\x02O", "\x00\x00", "\x00", "", "\xff\xffOK",
		"\x00\x05NO no\x00\x02OK", "\x02\x00NO " + strings.Repeat("x", 509),
	} {
		for _, manner := range []byte{0, deaf, lingers, 1 << sipShift, deaf | lingers | 3<<sipShift} {
			f.Add([]byte(said), manner, "alice", untold)
		}
	}
	f.Add([]byte("\x00\x02OK"), byte(0), "alice\x00root", "secret")
	f.Add([]byte("\x00\x02OK"), byte(deaf), strings.Repeat("x", 70000), "secret")
	f.Add([]byte("\x00\x02OK"), byte(0), "", "")
	d := newHostileDaemon(f)
	f.Fuzz(func(t *testing.T, said []byte, manner byte, login, password string) {
		id, err := d.ask(said, manner, login, password)
		verdict, whole := spelledOut(said)
		switch {
		case err == nil:
			if verdict != OK || !sendable(login, password) || id != (auth.Identity{User: login, Store: Kind}) {
				t.Fatalf("%q lets in %+v", said, id)
			}
		case isFailure(err):
			if verdict != NO && sendable(login, password) {
				t.Fatalf("%q keeps out: %v", said, err)
			}
		case whole && verdict != Neither && manner&deaf == 0 && sendable(login, password):
			t.Fatalf("%q was not understood: %v", said, err)
		}
		if err != nil {
			fitForLog(t, err, password == untold && !strings.Contains(login+string(said), untold))
		}
	})
}

// spelledOut reads an answer as saslauthd's own clients do: a length, and a word
// that ends there or at a blank.
func spelledOut(said []byte) (v Verdict, whole bool) {
	if len(said) < 2 || len(said) < 2+int(said[0])<<8+int(said[1]) {
		return Neither, false
	}
	word, _, _ := bytes.Cut(said[2:2+int(said[0])<<8+int(said[1])], []byte(" "))
	switch string(word) {
	case "OK":
		return OK, true
	case "NO":
		return NO, true
	}
	return Neither, true
}

// sendable reports whether the protocol has room for the two.
func sendable(login, password string) bool {
	return len(login) <= MaxField && len(password) <= MaxField && !strings.Contains(login+password, "\x00")
}

func isFailure(err error) bool {
	_, ok := errors.AsType[*auth.Failure](err)
	return ok
}

// fitForLog wants err to be one bounded line, and without the password if that
// can be told from the rest.
func fitForLog(t *testing.T, err error, secret bool) {
	t.Helper()
	text := err.Error()
	if secret && strings.Contains(text, untold) {
		t.Errorf("the password is in %q", text)
	}
	if len(text) > 2000 || strings.ContainsFunc(text, unicode.IsControl) {
		t.Errorf("not fit for the log: %q", text)
	}
}

// A hostileDaemon serves one connection at a time, each as ask wants it.
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

// ask has one question, if there is one, answered like that. Both ends of the
// connection are closed when it returns.
func (d *hostileDaemon) ask(said []byte, manner byte, login, password string) (auth.Identity, error) {
	ctx, cancel := context.WithTimeout(context.Background(), kit.Patience)
	defer cancel()
	if !sendable(login, password) {
		return d.store.VerifyPassword(ctx, nil, login, password) // connects to nobody
	}
	served := make(chan struct{})
	question, _ := Request{Login: login, Password: password, Service: d.store.cfg.Service, Realm: d.store.cfg.Realm}.Append(nil)
	go func() {
		defer close(served)
		if conn, err := d.listener.Accept(); err == nil {
			misbehave(conn, said, manner, len(question), cancel)
		}
	}()
	id, err := d.store.VerifyPassword(ctx, nil, login, password)
	<-served
	return id, err
}

// misbehave does as manner says. giveUp is for the client who waits in vain.
func misbehave(conn net.Conn, said []byte, manner byte, question int, giveUp func()) {
	defer conn.Close()
	_, whole := spelledOut(said)
	if manner&deaf == 0 {
		_, _ = io.CopyN(io.Discard, conn, int64(question))
	}
	sip := int(manner >> sipShift)
	if sip == 0 {
		sip = len(said)
	}
	for len(said) > 0 {
		n := min(sip, len(said))
		if _, err := conn.Write(said[:n]); err != nil {
			return
		}
		said = said[n:]
	}
	if manner&lingers != 0 {
		if !whole {
			giveUp()
		}
		_, _ = io.Copy(io.Discard, conn) // until the client hangs up
	}
}
