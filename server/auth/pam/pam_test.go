package pam

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/server/auth"
	"postern/server/auth/saslauthd"
)

var peer = &auth.Peer{Remote: netip.MustParseAddrPort("192.0.2.7:4711")}

func (r *running) store(t *testing.T) *Store {
	t.Helper()
	s, err := New(Config{Service: "smtp", Socket: r.path}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStore(t *testing.T) {
	h := startScripted(t, nil)
	s := h.store(t)
	id, err := s.VerifyPassword(t.Context(), peer, "alice", "right")
	if err != nil || id != (auth.Identity{User: "alice", Store: Kind}) {
		t.Errorf("%+v, %v", id, err)
	}
	if id, err = s.VerifyPassword(t.Context(), peer, "alice", "environment"); err != nil || !strings.HasSuffix(id.User, "true 192.0.2.7") {
		t.Errorf("the client's address is missing: %+v, %v", id, err)
	}
	long := strings.Repeat("x", 1<<20)
	for _, tt := range []struct {
		login, password string
		want            auth.FailureKind
	}{
		{"alice", "wrong", auth.Unknowable},
		{"alice", "expired", auth.Expired},
		{"../alice", "right", auth.NoSuchUser},
		{long, "right", auth.NoSuchUser},
		{"alice\x00", "right", auth.NoSuchUser},
		{"alice", long, auth.Unknowable},
		{"alice", long[:saslauthd.MaxField+1], auth.Unknowable},
		{"mallory", long[:saslauthd.MaxField+1], auth.Unknowable},
		{"alice", "right\x00", auth.Unknowable},
	} {
		_, err := s.VerifyPassword(t.Context(), peer, tt.login, tt.password)
		if f, ok := errors.AsType[*auth.Failure](err); !ok || f.Kind != tt.want || f.Store != Kind {
			t.Errorf("%.10q, %.10q: %v", tt.login, tt.password, err)
		}
	}
	h.stop()
	for _, password := range []string{"right", "wrong"} {
		_, err := s.VerifyPassword(t.Context(), peer, "alice", password)
		if u, ok := errors.AsType[*auth.Unavailable](err); !ok || u.Store != Kind || !strings.Contains(err.Error(), h.path) {
			t.Errorf("without a helper: %v", err)
		}
	}
}

// Cancelled requests leave no children, and do not affect other requests.
func TestAbandoned(t *testing.T) {
	h := startScripted(t, func(c *HelperConfig) { c.Processes = 4 })
	s := h.store(t)
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			_, err := s.VerifyPassword(ctx, peer, "alice", "hang:"+filepath.Join(t.TempDir(), "pid"))
			if _, ok := errors.AsType[*auth.Unavailable](err); !ok {
				t.Errorf("%v", err)
			}
		})
	}
	all.Wait()
	if _, err := s.VerifyPassword(t.Context(), peer, "alice", "right"); err != nil {
		t.Error(err)
	}
}

// The error of a timeout names the likely cause.
func TestModuleHangs(t *testing.T) {
	s := startScripted(t, nil).store(t)
	file := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := s.VerifyPassword(ctx, peer, "alice", "hang:"+file)
	if err == nil || !strings.Contains(err.Error(), "a module of the service waits for something") {
		t.Errorf("%v", err)
	}
}

func TestCheck(t *testing.T) {
	h := startScripted(t, nil)
	if err := h.store(t).Check(t.Context()); err != nil {
		t.Error(err)
	}
	other, err := New(Config{Service: "imap", Socket: h.path}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "--service") {
		t.Errorf("another service: %v", err)
	}
	h.stop()
	if err := h.store(t).Check(t.Context()); err == nil || !strings.Contains(err.Error(), h.path) {
		t.Errorf("no helper: %v", err)
	}
}

// saslauthd answers, too, but its OK has no user.
func TestCheckPlainSaslauthd(t *testing.T) {
	dial := func(context.Context) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			_, _ = saslauthd.ReadRequest(theirs)
			_, _ = theirs.Write(saslauthd.Answer{Verdict: saslauthd.NO, Text: "NULL login received"}.Append(nil))
		}()
		return ours, nil
	}
	s := &Store{service: "smtp", dial: dial, where: "/run/saslauthd/mux"}
	if err := s.Check(t.Context()); err == nil || !strings.Contains(err.Error(), `kind = "saslauthd"`) {
		t.Errorf("%v", err)
	}
}

func TestNewWithoutHelper(t *testing.T) {
	_, err := New(Defaults(), nil)
	want := "docs/systemd/postern-pam-helper.service"
	if !Available {
		want = "postern-pam"
	}
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
	if Available {
		return
	}
	if _, err := StartHelper(nil, auth.NewLog(quiet())); !errors.Is(err, ErrNotBuilt) {
		t.Errorf("StartHelper: %v", err)
	}
}

func TestValidate(t *testing.T) {
	tests := []struct {
		name string
		cfg  Config
		want string
	}{
		{"a helper", Config{Service: "smtp", Socket: "/run/postern-pam/mux"}, ""},
		{"no service", Config{Socket: "/run/postern-pam/mux"}, "service"},
		{"path", Config{Service: "../su", Socket: "/run/postern-pam/mux"}, "service"},
		{"capitals", Config{Service: "SMTP", Socket: "/run/postern-pam/mux"}, "service"},
		{"NUL", Config{Service: "smtp\x00", Socket: "/run/postern-pam/mux"}, "service"},
		{"relative socket", Config{Service: "smtp", Socket: "mux"}, "socket"},
	}
	for _, tt := range tests {
		if got := badKeys(tt.cfg); got != tt.want {
			t.Errorf("%s: errors for %q, want %q", tt.name, got, tt.want)
		}
	}
	if got := badKeys(Defaults()); Available != (got == "") {
		t.Errorf("defaults: errors for %q", got)
	}
}

func badKeys(cfg Config) string {
	var keys []string
	cfg.Validate(func(key, _ string) { keys = append(keys, key) })
	return strings.Join(keys, " ")
}
