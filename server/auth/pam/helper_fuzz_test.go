package pam

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/server/auth/saslauthd"
	"postern/test/kit"
)

// yesChild hears the question and says yes, whatever it is, so that one that should
// never have been asked shows.
const yesChild = `dd bs=4096 count=1 <&3 >/dev/null 2>&1; printf '\000\010OK alice' >&4`

const untold = "a secret that nobody is told"

// How a hostile client behaves, besides what it says.
const (
	leaves   = 1 << iota // hangs up before it has heard the answer
	sipShift = iota      // the rest of the byte is how much it says at a time
)

// FuzzHelper is a client that says anything at all, in pieces, and may not wait
// for its answer. A child is asked only about a login, a password and a service
// that may be; everybody else hears NO, or nothing. The helper is done with a
// client that is gone, and no password is in its log.
func FuzzHelper(f *testing.F) {
	for _, r := range []saslauthd.Request{
		{Login: "alice", Password: untold, Service: "smtp"},
		{Login: "alice", Password: untold, Service: "smtp", Realm: "example.org"},
		{Login: "alice", Password: untold, Service: "smtp", Extended: true, Client: client},
		{Login: "alice", Password: untold, Service: "su"},
		{Login: "alice", Service: "smtp"},
		{Login: "../etc", Password: untold, Service: "smtp"},
		{Login: "al\nice", Password: untold, Service: "smtp", Extended: true},
		{Login: strings.Repeat("x", 600), Password: untold, Service: "smtp"},
		{Login: strings.Repeat("x", 2000), Password: untold, Service: "smtp"},
	} {
		wire, err := r.Append(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire, byte(0))
		f.Add(wire, byte(leaves))
		f.Add(append(wire, wire...), byte(3<<sipShift))
		f.Add(wire[:len(wire)-1], byte(0))
	}
	f.Add([]byte("\x00\x01a\x00\x01b\x00\x0esmtp\x00postern/2\x00\x00\x00\x00"), byte(0))
	f.Add([]byte("\xff\xff"), byte(0))
	h := startYes(f)
	f.Fuzz(func(t *testing.T, said []byte, manner byte) {
		heard := h.converse(t, said, manner)
		r, err := saslauthd.ReadRequest(bytes.NewReader(said))
		if want := h.answers(r, err); !want(heard) && (manner&leaves == 0 || len(heard) > 0) {
			t.Errorf("%q (%+v, %v) hears %q\n%s", said, r, err, heard, h.log)
		}
		log := h.log.Take()
		if strings.Contains(log, untold) && r.Password == untold && !strings.Contains(r.Login+r.Service+r.Realm, untold) {
			t.Errorf("the password is in the log:\n%s", log)
		}
		if strings.Contains(log, "panic") {
			t.Errorf("logged: %s", log)
		}
	})
}

// A yesHelper is a running helper with children that say yes.
type yesHelper struct {
	*Helper
	path string
	log  *kit.LogBuffer
}

func startYes(t testing.TB) *yesHelper {
	t.Helper()
	y := &yesHelper{path: filepath.Join(t.TempDir(), "mux"), log: new(kit.LogBuffer)}
	log := y.log.Logger()
	y.Helper = NewHelper(HelperConfig{
		Services: []string{"smtp"}, Processes: 2, Timeout: 10 * time.Second, Log: log,
		Child: func(ctx context.Context) *exec.Cmd { return exec.CommandContext(ctx, "/bin/sh", "-c", yesChild) },
	})
	l, err := Listen(SocketConfig{Path: y.path, Mode: 0o600, GID: os.Getegid(), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- y.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return y
}

// converse says all of it, and returns what the helper has said when it has hung
// up, and is done with us.
func (y *yesHelper) converse(t *testing.T, said []byte, manner byte) []byte {
	t.Helper()
	conn, err := net.Dial("unix", y.path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(kit.Patience))
	sip := max(1, int(manner>>sipShift))
	if manner>>sipShift == 0 {
		sip = max(1, len(said))
	}
	for rest := said; len(rest) > 0; rest = rest[min(sip, len(rest)):] {
		if _, err := conn.Write(rest[:min(sip, len(rest))]); err != nil {
			break // it has heard enough
		}
	}
	if manner&leaves != 0 {
		conn.Close()
	}
	_ = conn.(*net.UnixConn).CloseWrite()
	heard, err := io.ReadAll(conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%q: the helper does not hang up", said)
	}
	conn.Close()
	y.idle(t)
	return heard
}

// idle waits until the helper serves nobody: it only waits for the next one.
func (y *yesHelper) idle(t *testing.T) {
	t.Helper()
	if !kit.Soon(func() bool { return len(y.heard) <= 1 && len(y.children) == 0 }) {
		t.Fatalf("the helper still serves %d, with %d children", len(y.heard)-1, len(y.children))
	}
}

// answers is what a request may hear.
func (y *yesHelper) answers(r saslauthd.Request, err error) func(heard []byte) bool {
	switch _, never := hopeless(r); {
	case errors.Is(err, saslauthd.ErrTooLong), errors.Is(err, saslauthd.ErrMalformed):
		return is("\x00\x02NO")
	case err != nil:
		return is("")
	case r.Service != "smtp" && r.Extended:
		return begins("TRYAGAIN ")
	case r.Service != "smtp":
		return is("")
	case never && r.Extended:
		return begins("NO ")
	case never:
		return is("\x00\x02NO")
	case r.Extended:
		return is("\x00\x08OK alice")
	}
	return is("\x00\x02OK")
}

func is(want string) func([]byte) bool {
	return func(heard []byte) bool { return string(heard) == want }
}

func begins(want string) func([]byte) bool {
	return func(heard []byte) bool {
		a, ok := bytes.CutPrefix(heard[min(2, len(heard)):], []byte(want))
		return ok && len(heard) == 2+int(heard[0])<<8+int(heard[1]) && len(a) < 1000
	}
}
