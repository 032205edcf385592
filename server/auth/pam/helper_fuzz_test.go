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

// acceptingChild accepts every request, so that a request that must not reach a child is
// noticed.
const acceptingChild = `dd bs=4096 count=1 <&3 >/dev/null 2>&1; printf '\000\010OK alice' >&4`

const secret = "a secret that no log contains"

// The manner of a hostile client: flags and a number.
const (
	leaves    = 1 << iota // closes the connection before the answer
	sizeShift = iota      // the other bits are the size of a write
)

// FuzzHelper sends arbitrary bytes in pieces, and may not wait for the answer. Only valid
// logins, passwords and services may reach a child; the answer to others is NO, or none. The
// helper stops serving a client that has closed the connection, and the log contains no
// password.
func FuzzHelper(f *testing.F) {
	for _, r := range []saslauthd.Request{
		{Login: "alice", Password: secret, Service: "smtp"},
		{Login: "alice", Password: secret, Service: "smtp", Realm: "example.org"},
		{Login: "alice", Password: secret, Service: "smtp", Extended: true, Client: client},
		{Login: "alice", Password: secret, Service: "su"},
		{Login: "alice", Service: "smtp"},
		{Login: "../etc", Password: secret, Service: "smtp"},
		{Login: "al\nice", Password: secret, Service: "smtp", Extended: true},
		{Login: strings.Repeat("x", 600), Password: secret, Service: "smtp"},
		{Login: strings.Repeat("x", 2000), Password: secret, Service: "smtp"},
	} {
		text, err := r.Append(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, byte(0))
		f.Add(text, byte(leaves))
		f.Add(append(text, text...), byte(3<<sizeShift))
		f.Add(text[:len(text)-1], byte(0))
	}
	f.Add([]byte("\x00\x01a\x00\x01b\x00\x0esmtp\x00postern/2\x00\x00\x00\x00"), byte(0))
	f.Add([]byte("\xff\xff"), byte(0))
	h := startAccepting(f)
	f.Fuzz(func(t *testing.T, sent []byte, manner byte) {
		received := h.exchange(t, sent, manner)
		r, err := saslauthd.ReadRequest(bytes.NewReader(sent))
		if valid := h.validAnswer(r, err); !valid(received) && (manner&leaves == 0 || len(received) > 0) {
			t.Errorf("%q (%+v, %v) is answered %q\n%s", sent, r, err, received, h.log)
		}
		log := h.log.Take()
		if strings.Contains(log, secret) && r.Password == secret && !strings.Contains(r.Login+r.Service+r.Realm, secret) {
			t.Errorf("the password is in the log:\n%s", log)
		}
		if strings.Contains(log, "panic") {
			t.Errorf("logged: %s", log)
		}
	})
}

// An acceptingHelper is a running helper whose children accept every request.
type acceptingHelper struct {
	*Helper
	path string
	log  *kit.LogBuffer
}

func startAccepting(t testing.TB) *acceptingHelper {
	t.Helper()
	y := &acceptingHelper{path: filepath.Join(t.TempDir(), "mux"), log: new(kit.LogBuffer)}
	log := y.log.Logger()
	y.Helper = NewHelper(HelperConfig{
		Services: []string{"smtp"}, Processes: 2, Timeout: 10 * time.Second, Log: log,
		Child: func(ctx context.Context) *exec.Cmd { return exec.CommandContext(ctx, "/bin/sh", "-c", acceptingChild) },
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

// exchange sends the bytes, and returns what the helper sends until it closes the connection.
// It waits until the helper has finished.
func (y *acceptingHelper) exchange(t *testing.T, sent []byte, manner byte) []byte {
	t.Helper()
	conn, err := net.Dial("unix", y.path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(kit.Patience))
	size := max(1, int(manner>>sizeShift))
	if manner>>sizeShift == 0 {
		size = max(1, len(sent))
	}
	for rest := sent; len(rest) > 0; rest = rest[min(size, len(rest)):] {
		if _, err := conn.Write(rest[:min(size, len(rest))]); err != nil {
			break // the helper has closed the connection
		}
	}
	if manner&leaves != 0 {
		conn.Close()
	}
	_ = conn.(*net.UnixConn).CloseWrite()
	received, err := io.ReadAll(conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%q: the helper does not close the connection", sent)
	}
	conn.Close()
	y.idle(t)
	return received
}

// idle waits until the helper serves no client; it has a token for the next one.
func (y *acceptingHelper) idle(t *testing.T) {
	t.Helper()
	if !kit.Soon(func() bool { return len(y.conns) <= 1 && len(y.children) == 0 }) {
		t.Fatalf("the helper still serves %d, with %d children", len(y.conns)-1, len(y.children))
	}
}

// validAnswer returns the check for the answer to a request.
func (y *acceptingHelper) validAnswer(r saslauthd.Request, err error) func(received []byte) bool {
	switch _, refused := precheck(r); {
	case errors.Is(err, saslauthd.ErrTooLong), errors.Is(err, saslauthd.ErrMalformed):
		return is("\x00\x02NO")
	case err != nil:
		return is("")
	case r.Service != "smtp" && r.Extended:
		return begins("TRYAGAIN ")
	case r.Service != "smtp":
		return is("")
	case refused && r.Extended:
		return begins("NO ")
	case refused:
		return is("\x00\x02NO")
	case r.Extended:
		return is("\x00\x08OK alice")
	}
	return is("\x00\x02OK")
}

func is(want string) func([]byte) bool {
	return func(received []byte) bool { return string(received) == want }
}

func begins(want string) func([]byte) bool {
	return func(received []byte) bool {
		a, ok := bytes.CutPrefix(received[min(2, len(received)):], []byte(want))
		return ok && len(received) == 2+int(received[0])<<8+int(received[1]) && len(a) < 1000
	}
}
