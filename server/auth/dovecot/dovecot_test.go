package dovecot

import (
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"postern/internal/fileperm"
	"postern/server/auth"
	"postern/test/kit"
)

func TestAddress(t *testing.T) {
	good := map[string]Address{
		"/run/dovecot/auth-postern":      {"unix", "/run/dovecot/auth-postern"},
		"unix:/run/dovecot/auth-postern": {"unix", "/run/dovecot/auth-postern"},
		"inet:127.0.0.1:12345":           {"tcp", "127.0.0.1:12345"},
		"inet:[::1]:12345":               {"tcp", "[::1]:12345"},
		"inet:dovecot:12345":             {"tcp", "dovecot:12345"},
	}
	for text, want := range good {
		var a Address
		if err := a.UnmarshalText([]byte(text)); err != nil || a != want {
			t.Errorf("%q: %+v and %v, want %+v", text, a, err, want)
		}
	}
	for _, text := range []string{"", "private/auth", "inet:", "inet:127.0.0.1", "inet::12345", "inet:127.0.0.1:", "unix:auth"} {
		var a Address
		if err := a.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was parsed as %+v", text, a)
		}
	}
}

func TestValidate(t *testing.T) {
	var keys []string
	bad := func(key, _ string) { keys = append(keys, key) }
	cfg := Defaults()
	cfg.Validate(bad)
	(&Config{}).Validate(bad)
	if len(keys) != 1 || keys[0] != "path" {
		t.Errorf("errors for %q, want one for path", keys)
	}
}

func TestCheck(t *testing.T) {
	f := startFake(t, goodGreeting, nil)
	p := f.proxy(t)
	if _, err := p.Probe(t.Context()); err != nil {
		t.Error(err)
	}
	p.Options = auth.SecurityOptions{auth.ForwardSecrecy}
	if err := p.Check(t.Context()); err != nil {
		t.Errorf("the store, which ignores the options: %v", err)
	}
	_, err := p.Probe(t.Context())
	wantText(t, err, "forward_secrecy", "CRAM-MD5", "auth_mechanisms")
}

func TestCheckFails(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale")
	kit.StaleSocket(t, stale, 0o640)
	free := kit.Addr(t)
	tests := map[Address][]string{
		{"unix", filepath.Join(dir, "none")}: {"does not exist", "unix_listener auth-postern", fileperm.GroupName(os.Getegid())},
		{"unix", stale}:                      {"mode 0640", "start the server"},
		{"tcp", free}:                        {"inet:" + free, "inet_listener"},
		{"unix", startFake(t, "220 mx.example.org ESMTP\n", nil).path}:            {"is the socket of a server for SMTP", "unix_listener auth-postern"},
		{"unix", startFake(t, "\x00\x16NO NULL login received", nil).path}:        {"is the socket of saslauthd", `kind = "saslauthd"`},
		{"unix", startFake(t, "VERSION\tauth-worker\t1\t0\n", nil).path}:          {"Dovecot's service auth-worker", "unix_listener auth-postern"},
		{"unix", startFake(t, "protocol\x00proxymap_protocol\x00\x00", nil).path}: {"Postfix's service", "unix_listener auth-postern"},
		{"unix", dir}: {"is a folder, not a socket", "unix_listener auth-postern"},
		{"unix", startFake(t, "VERSION\t1\t2\nDONE\n", nil).path}: {"offers no mechanism"},
	}
	var checks sync.WaitGroup // some wait for a greeting
	for addr, texts := range tests {
		checks.Go(func() {
			s := New(Config{Path: addr}, auth.NewLog(slog.New(slog.DiscardHandler)))
			wantText(t, s.Check(t.Context()), texts...)
			s.Close()
		})
	}
	checks.Wait()
}

// Only Postfix may enter its folder "private".
func TestForbiddenSocket(t *testing.T) {
	a := Address{"unix", filepath.Join(t.TempDir(), "auth")}
	kit.StaleSocket(t, a.addr, 0o600)
	err := &net.OpError{Op: "dial", Net: "unix", Addr: &net.UnixAddr{Name: a.addr, Net: "unix"}, Err: syscall.EACCES}
	wantText(t, a.explain(err), a.addr, "mode 0600", "service auth {", "group = "+fileperm.GroupName(os.Getegid()), `path = "/run/dovecot/auth-postern"`)
}

// wantText fails the test if the text of err does not contain each of texts.
func wantText(t *testing.T, err error, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v, want %q in it", err, text)
		}
	}
}
