package dovecot

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"postern/internal/fileperm"
	"postern/server/auth"
	"postern/test/kit"
)

func TestCheck(t *testing.T) {
	f := startFake(t, goodGreeting, nil)
	p := f.proxy(t)
	if _, err := p.Probe(t.Context()); err != nil {
		t.Error(err)
	}
	p.Options = auth.SecurityOptions{auth.ForwardSecrecy}
	if err := p.Check(t.Context()); err != nil {
		t.Errorf("the store, which knows of no options: %v", err)
	}
	_, err := p.Probe(t.Context())
	wantText(t, err, "forward_secrecy", "CRAM-MD5", "auth_mechanisms")
}

func TestCheckFails(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(l.Close(), os.Chmod(stale, 0o640)); err != nil {
		t.Fatal(err)
	}
	free := kit.Addr(t)
	tests := map[Address][]string{
		{"unix", filepath.Join(dir, "none")}: {"is not there", "unix_listener auth-postern", fileperm.GroupName(os.Getegid())},
		{"unix", stale}:                      {"mode 0640", "start the server"},
		{"tcp", free}:                        {"inet:" + free, "inet_listener"},
		{"unix", startFake(t, "220 mx.example.org ESMTP\n", nil).path}: {"not Dovecot's authentication protocol"},
		{"unix", startFake(t, "VERSION\t1\t2\nDONE\n", nil).path}:      {"offers no mechanism"},
	}
	for addr, says := range tests {
		s := New(Config{Path: addr}, auth.NewLog(slog.New(slog.DiscardHandler)))
		wantText(t, s.Check(t.Context()), says...)
		s.Close()
	}
}

// Postfix's folder private is closed to all others.
func TestForbiddenSocket(t *testing.T) {
	a := Address{"unix", filepath.Join(t.TempDir(), "auth")}
	if err := os.WriteFile(a.addr, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := &net.OpError{Op: "dial", Net: "unix", Addr: &net.UnixAddr{Name: a.addr, Net: "unix"}, Err: syscall.EACCES}
	wantText(t, a.explain(err), a.addr, "mode 0600", "service auth {", "group = "+fileperm.GroupName(os.Getegid()), `path = "/run/dovecot/auth-postern"`)
}

func wantText(t *testing.T, err error, says ...string) {
	t.Helper()
	for _, one := range says {
		if err == nil || !strings.Contains(err.Error(), one) {
			t.Errorf("%v, want %q in it", err, one)
		}
	}
}
