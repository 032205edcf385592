package userfile

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/go-crypt/crypt/algorithm/shacrypt"
	"golang.org/x/sys/unix"

	"postern/server/auth"
	"postern/server/auth/hash"
	"postern/test/kit"
)

// Hashes of "secret", of "other", and an expensive one of "secret".
const (
	secret = "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ="
	other  = "{SHA}0JQeaNqPOBUf+Gph/Fn3xc+fyqI="
	slow   = "$2y$10$abcdefghijklmnopqrstuuqflPDzB6gcMhKa1rZqKiun2YGL5sa2u"
)

// A fixture is a store with a file in a temporary folder, a clock that the test moves, and a
// log.
type fixture struct {
	*Store
	t     *testing.T
	clock time.Time
	log   kit.LogBuffer
}

func open(t *testing.T, path string) (*fixture, error) {
	f := &fixture{t: t, clock: time.Now()}
	s, err := New(Config{Path: path}, auth.FoldLower, hash.NewChecker(time.Minute), auth.NewLog(f.log.Logger()))
	if err != nil {
		return nil, err
	}
	s.now = func() time.Time { return f.clock }
	f.Store = s
	return f, nil
}

func openText(t *testing.T, text string) *fixture {
	t.Helper()
	path := filepath.Join(t.TempDir(), "users")
	write(t, path, text)
	f, err := open(t, path)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// renameOver replaces path atomically.
func renameOver(t *testing.T, path, text string) {
	t.Helper()
	write(t, path+".new", text)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// outcome returns "accepted", the kind of the failure, or "temporary".
func (f *fixture) outcome(login, password string) string {
	f.t.Helper()
	id, err := f.VerifyPassword(f.t.Context(), &auth.Peer{}, login, password)
	if err == nil {
		if id != (auth.Identity{User: login, Store: Kind}) {
			f.t.Errorf("identity %+v", id)
		}
		return "accepted"
	}
	if failure, ok := errors.AsType[*auth.Failure](err); ok {
		return failure.Kind.String()
	}
	if u, ok := errors.AsType[*auth.Unavailable](err); !ok || u.Store != Kind {
		f.t.Errorf("error %#v", err)
	}
	return "temporary"
}

func (f *fixture) expect(login, password, want string) {
	f.t.Helper()
	if got := f.outcome(login, password); got != want {
		f.t.Errorf("%s with %q: %s, want %s", login, password, got, want)
	}
}

func (f *fixture) later(d time.Duration) { f.clock = f.clock.Add(d) }

// A password that is longer than the scheme accepts is wrong, and for unknown users as well.
func TestLongPasswords(t *testing.T) {
	sha512, err := shacrypt.New(shacrypt.WithSHA512(), shacrypt.WithIterations(1000))
	if err != nil {
		t.Fatal(err)
	}
	for longest, makeHash := range map[int]func(password string) string{
		512: func(password string) string { return sha512.MustHash(password).Encode() },
		4096: func(password string) string {
			sum := sha1.Sum([]byte(password))
			return "{SHA}" + base64.StdEncoding.EncodeToString(sum[:])
		},
	} {
		password, tooLong := strings.Repeat("x", longest), strings.Repeat("x", longest+1)
		f := openText(t, "alice:"+makeHash(password)+"\ncarol:"+makeHash(tooLong)+"\nlocked:!\n")
		f.expect("alice", password, "accepted")
		for _, long := range []string{tooLong, strings.Repeat("x", 9213), strings.Repeat("e\u0301", 3000)} {
			f.expect("alice", long, "wrong password")
			f.expect("carol", long, "wrong password")
			f.expect("locked", long, "wrong password")
			f.expect("mallory", long, "no such user")
		}
	}
}

func TestVerifyPassword(t *testing.T) {
	f := openText(t, "# users\n\nalice:"+secret+"\nbob@example.org:"+other+":1000:1000:Bob:/home/bob\r\n"+
		"carol:\ndave:!"+secret+"\nerin:*\njürgen:"+secret+"\nwith blank:"+secret)
	tests := []struct{ login, password, want string }{
		{"alice", "secret", "accepted"},
		{"alice", "other", "wrong password"},
		{"Alice", "secret", "no such user"},
		{"alice@example.org", "secret", "no such user"},
		{"bob@example.org", "other", "accepted"},
		{"bob@example.org", "secret", "wrong password"},
		{"bob", "other", "no such user"},
		{"carol", "", "wrong password"},
		{"dave", "secret", "wrong password"},
		{"erin", "*", "wrong password"},
		{"jürgen", "secret", "accepted"},
		{"with blank", "secret", "accepted"},
		{"# users", "secret", "no such user"},
		{"", "secret", "no such user"},
		{"*)(uid=*", "secret", "no such user"},
		{"a' or 1=1--", "secret", "no such user"},
		{"../../etc/passwd", "secret", "no such user"},
		{strings.Repeat("x", 1<<20), "secret", "no such user"},
	}
	for _, tt := range tests {
		f.expect(tt.login, tt.password, tt.want)
	}
}

// Unknown and locked users have the same cost as others, in the same queue.
func TestUnknownUsersCostTheSame(t *testing.T) {
	f := openText(t, "alice:"+slow+"\nlocked:!\n")
	runtime.LockOSThread() // the hash is computed by this goroutine
	defer runtime.UnlockOSThread()
	cost := func(login string) int64 { // CPU time in microseconds, which other programs do not change much
		before := threadTime(t)
		if got := f.outcome(login, "wrong"); got == "accepted" {
			t.Error(got)
		}
		return threadTime(t) - before
	}
	known := min(cost("alice"), cost("alice"), cost("alice"))
	for _, login := range []string{"nobody", "locked"} {
		if took := cost(login); took < known/4 {
			t.Errorf("%s took %d us, alice %d us", login, took, known)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for _, login := range []string{"alice", "nobody", "locked"} {
		_, err := f.VerifyPassword(gone, &auth.Peer{}, login, "wrong")
		if _, ok := errors.AsType[*auth.Unavailable](err); !ok || !errors.Is(err, context.Canceled) {
			t.Errorf("%s, cancelled: %v", login, err)
		}
	}
}

// threadTime returns the CPU time of the calling thread in microseconds.
func threadTime(t *testing.T) int64 {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		t.Fatal(err)
	}
	return (u.Utime.Nano() + u.Stime.Nano()) / 1000
}

func TestNewErrors(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	large := filepath.Join(dir, "large")
	write(t, large, "")
	if err := os.Truncate(large, maxFile+1); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "missing"): "create it with: postern passwd",
		dir:                           "not a regular file",
		fifo:                          "not a regular file",
		large:                         "larger than 64 MiB",
	} {
		if _, err := open(t, path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want ...%s...", path, err, want)
		}
	}
}

func TestCheckWithoutUsers(t *testing.T) {
	f := openText(t, "# no users\n")
	if err := f.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "postern passwd") {
		t.Errorf("Check: %v", err)
	}
	write(t, f.path, "alice:"+secret+"\n")
	if err := f.Check(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
}

func TestDefaultsAreValid(t *testing.T) {
	c := Defaults()
	c.Validate(func(key, why string) { t.Errorf("%s: %s", key, why) })
	c.Path = "users"
	errors := 0
	c.Validate(func(key, _ string) {
		if errors++; key != "path" {
			t.Errorf("an error for %s", key)
		}
	})
	if errors != 1 {
		t.Errorf("%d errors for a relative path", errors)
	}
}

func BenchmarkVerifyRemembered(b *testing.B) {
	path := filepath.Join(b.TempDir(), "users")
	if err := os.WriteFile(path, []byte("alice:"+secret+"\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	s, err := New(Config{Path: path}, auth.FoldLower, hash.NewChecker(time.Minute), auth.NewLog(slog.New(slog.DiscardHandler)))
	if err != nil {
		b.Fatal(err)
	}
	p := &auth.Peer{}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.VerifyPassword(b.Context(), p, "alice", "secret"); err != nil {
			b.Fatal(err)
		}
	}
}
