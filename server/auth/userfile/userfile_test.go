package userfile

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-crypt/crypt/algorithm/shacrypt"
	"golang.org/x/sys/unix"

	"postern/server/auth"
	"postern/server/auth/hash"

	"postern/test/kit"
)

// Hashes of "secret", of "other", and of "secret" at a cost that takes a while.
const (
	secret = "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ="
	other  = "{SHA}0JQeaNqPOBUf+Gph/Fn3xc+fyqI="
	slow   = "$2y$10$abcdefghijklmnopqrstuuqflPDzB6gcMhKa1rZqKiun2YGL5sa2u"
)

// A fixture is a store over a file in a folder of its own, with a clock that the
// test moves and a log that it reads.
type fixture struct {
	*Store
	t     *testing.T
	clock time.Time
	log   kit.LogBuffer
}

func open(t *testing.T, path string) (*fixture, error) {
	f := &fixture{t: t, clock: time.Now()}
	s, err := New(Config{Path: path}, hash.NewChecker(time.Minute), auth.NewLog(f.log.Logger()))
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

// renameOver replaces path as careful programs do.
func renameOver(t *testing.T, path, text string) {
	t.Helper()
	write(t, path+".new", text)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// answer is what the store says, in one word.
func (f *fixture) answer(login, password string) string {
	f.t.Helper()
	id, err := f.VerifyPassword(f.t.Context(), &auth.Peer{}, login, password)
	if err == nil {
		if id != (auth.Identity{User: login, Store: Kind}) {
			f.t.Errorf("identity %+v", id)
		}
		return "yes"
	}
	if failure, ok := errors.AsType[*auth.Failure](err); ok {
		return failure.Kind.String()
	}
	if u, ok := errors.AsType[*auth.Unavailable](err); !ok || u.Store != Kind {
		f.t.Errorf("error %#v", err)
	}
	return "unavailable"
}

func (f *fixture) expect(login, password, want string) {
	f.t.Helper()
	if got := f.answer(login, password); got != want {
		f.t.Errorf("%s with %q: %s, want %s", login, password, got, want)
	}
}

func (f *fixture) later(d time.Duration) { f.clock = f.clock.Add(d) }

// A password that is longer than the scheme accepts is wrong, and for an unknown
// user as for a known one.
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
		f.expect("alice", password, "yes")
		for _, long := range []string{tooLong, strings.Repeat("x", 9213), strings.Repeat("e\u0301", 3000)} {
			f.expect("alice", long, "wrong password")
			f.expect("carol", long, "wrong password")
			f.expect("locked", long, "wrong password")
			f.expect("mallory", long, "no such user")
		}
	}
}

func TestAnswers(t *testing.T) {
	f := openText(t, "# users\n\nalice:"+secret+"\nbob@example.org:"+other+":1000:1000:Bob:/home/bob\r\n"+
		"carol:\ndave:!"+secret+"\nerin:*\njürgen:"+secret+"\nwith blank:"+secret)
	tests := []struct{ login, password, want string }{
		{"alice", "secret", "yes"},
		{"alice", "other", "wrong password"},
		{"Alice", "secret", "no such user"},
		{"alice@example.org", "secret", "no such user"},
		{"bob@example.org", "other", "yes"},
		{"bob@example.org", "secret", "wrong password"},
		{"bob", "other", "no such user"},
		{"carol", "", "wrong password"},
		{"dave", "secret", "wrong password"},
		{"erin", "*", "wrong password"},
		{"jürgen", "secret", "yes"},
		{"with blank", "secret", "yes"},
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

func TestByteOrderMark(t *testing.T) {
	openText(t, "\ufeffalice:"+secret+"\n").expect("alice", "secret", "yes")
}

func TestBadLinesAreSkippedAndLogged(t *testing.T) {
	f := openText(t, strings.Join([]string{
		"alice:" + secret,
		"no colon here",
		":" + secret,
		"bad:plainpassword",
		"alice:" + other,
		"long:" + strings.Repeat("x", maxLine),
		"\xff\xfe:" + secret,
		"a\x07b:" + secret,
		" blank:" + secret,
		"costly:$2y$31$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2",
		"bob:" + other,
	}, "\n"))
	f.expect("alice", "secret", "yes")
	f.expect("bob", "other", "yes")
	f.expect("bad", "plainpassword", "no such user")
	log := f.log.String()
	for line, why := range map[int]string{
		2: "no colon", 3: "the name is empty", 4: "unknown password scheme", 5: "in the file already", 6: "longer than",
		7: "not UTF-8", 8: "control character", 9: "blank", 10: "bcrypt cost 31",
	} {
		found := false
		for entry := range strings.Lines(log) {
			if strings.Contains(entry, fmt.Sprintf(" line=%d ", line)) && strings.Contains(entry, why) {
				found = true
			}
		}
		if !found {
			t.Errorf("line %d: no complaint of %q in\n%s", line, why, log)
		}
	}
	for _, content := range []string{"plainpassword", "here", "costly", "xxx", secret, "abcdefgh"} {
		if strings.Contains(log, content) {
			t.Errorf("the log repeats %q:\n%s", content, log)
		}
	}
	if err := f.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "line 4: unknown password scheme") {
		t.Errorf("Check: %v", err)
	}
}

func TestComplaintsAreBounded(t *testing.T) {
	f := openText(t, strings.Repeat("nonsense\n", 1000))
	if n := strings.Count(f.log.String(), "\n"); n > maxReported+2 {
		t.Errorf("%d lines in the log", n)
	}
	if !strings.Contains(f.log.String(), "lines=980") {
		t.Errorf("the rest is not counted:\n%s", f.log.String())
	}
}

func TestDecoyIsOfTheCommonestKind(t *testing.T) {
	tests := map[string]string{
		"": hash.DefaultDecoy,
		"a:" + secret + "\nb:" + slow + "\nc:" + slow + "\n":     slow,
		"a:" + slow + "\nb:" + secret + "\nc:" + other + "\n":    secret,
		"a:!\nb:!\nc:" + slow + "\nd:nonsense\ne:nonsense again": slow,
	}
	for text, want := range tests {
		users, _, err := parse([]byte(text))
		if err != nil || users.decoy != want {
			t.Errorf("%q: decoy %q, %v; want %q", text, users.decoy, err, want)
		}
	}
}

// Users that do not exist or are locked wait in the same line for the same work.
func TestUnknownUsersCostTheSame(t *testing.T) {
	f := openText(t, "alice:"+slow+"\nlocked:!\n")
	cost := func(login string) time.Duration {
		start := time.Now()
		if got := f.answer(login, "wrong"); got == "yes" {
			t.Error("got in")
		}
		return time.Since(start)
	}
	known := min(cost("alice"), cost("alice"), cost("alice"))
	for _, login := range []string{"nobody", "locked"} {
		if took := cost(login); took < known/4 {
			t.Errorf("%s took %v, alice %v", login, took, known)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for _, login := range []string{"alice", "nobody", "locked"} {
		_, err := f.VerifyPassword(gone, &auth.Peer{}, login, "wrong")
		if _, ok := errors.AsType[*auth.Unavailable](err); !ok || !errors.Is(err, context.Canceled) {
			t.Errorf("%s without a place: %v", login, err)
		}
	}
}

func TestRenameOverIsNoticed(t *testing.T) {
	f := openText(t, "alice:"+secret+"\n")
	f.later(time.Hour)
	f.expect("alice", "secret", "yes")
	renameOver(t, f.path, "alice:"+other+"\n")
	f.later(lookEvery)
	f.expect("alice", "secret", "wrong password")
	f.expect("alice", "other", "yes")
}

func TestSymbolicLinkIsFollowed(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "one"), "alice:"+secret+"\n")
	write(t, filepath.Join(dir, "two"), "alice:"+other+"\n")
	link := filepath.Join(dir, "users")
	if err := os.Symlink("one", link); err != nil {
		t.Fatal(err)
	}
	f, err := open(t, link)
	if err != nil {
		t.Fatal(err)
	}
	f.expect("alice", "secret", "yes")
	if err := os.Symlink("two", link+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link+".new", link); err != nil {
		t.Fatal(err)
	}
	f.later(time.Hour)
	f.expect("alice", "other", "yes")
}

// The second change has the same size, and may have the same times.
func TestTwoChangesAtOnceAreNoticed(t *testing.T) {
	f := openText(t, "alice:"+secret+"\n")
	write(t, f.path, "alice:"+other+"\n")
	f.later(quiet + time.Second)
	f.expect("alice", "other", "yes")
}

func TestFileLeftAloneIsNotReadAgain(t *testing.T) {
	f := openText(t, "alice:"+secret+"\n")
	f.later(time.Hour)
	f.expect("alice", "secret", "yes")
	if !f.seen.settled {
		t.Fatal("not settled after an hour")
	}
	before := f.content.Load()
	for range 3 {
		f.later(time.Hour)
		f.expect("alice", "secret", "yes")
	}
	if f.content.Load() != before || strings.Count(f.log.String(), "user file read") != 1 {
		t.Errorf("read again:\n%s", f.log.String())
	}
}

func TestHalfWrittenFileIsNotRead(t *testing.T) {
	f := openText(t, "alice:"+secret+"\nbob:"+secret+"\n")
	write(t, f.path, "alice:"+secret+"\n") // in place; bob is still to come
	written, err := stampOf(f.path)
	if err != nil {
		t.Fatal(err)
	}
	f.clock = written.changed.Add(quiet / 2)
	f.seen.looked = time.Time{}
	f.expect("bob", "secret", "yes")
	f.later(quiet)
	f.expect("bob", "secret", "no such user")
}

func TestFileThatIsWrittenAllTheTimeIsRead(t *testing.T) {
	f := openText(t, "alice:"+secret+"\n")
	changed := stamp{inode: f.seen.stamp.inode, device: f.seen.stamp.device}
	start := time.Now()
	for waited := time.Duration(0); waited < patience; waited += lookEvery {
		now := start.Add(waited)
		changed.changed = now
		if !f.halfWritten(changed, now) {
			t.Fatalf("read after %v", waited)
		}
	}
	now := start.Add(patience)
	changed.changed = now
	if f.halfWritten(changed, now) {
		t.Error("not read although nobody has patience for ever")
	}
}

func TestMissingFileIsNeitherYesNorNo(t *testing.T) {
	f := openText(t, "alice:"+secret+"\n")
	if err := os.Remove(f.path); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		f.later(time.Minute)
		f.expect("alice", "secret", "unavailable")
		f.expect("alice", "wrong", "unavailable")
		f.expect("nobody", "secret", "unavailable")
	}
	if n := strings.Count(f.log.String(), "level=ERROR"); n != 1 {
		t.Errorf("%d errors in the log, want one:\n%s", n, f.log.String())
	}
	if err := f.Reload(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Reload: %v", err)
	}
	write(t, f.path, "alice:"+secret+"\n")
	f.later(time.Minute)
	f.expect("alice", "secret", "yes")
}

func TestReloadReadsAtOnce(t *testing.T) {
	f := openText(t, "alice:"+secret+"\n")
	write(t, f.path, "alice:"+other+"\n")
	if err := f.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.expect("alice", "other", "yes")
}

func TestNewSaysWhatToDo(t *testing.T) {
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
		filepath.Join(dir, "missing"): "make it with: postern passwd",
		dir:                           "not a regular file",
		fifo:                          "not a regular file",
		large:                         "larger than 64 MiB",
	} {
		if _, err := open(t, path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want ...%s...", path, err, want)
		}
	}
}

func TestCheckWantsUsers(t *testing.T) {
	f := openText(t, "# nobody yet\n")
	if err := f.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "postern passwd") {
		t.Errorf("Check: %v", err)
	}
	write(t, f.path, "alice:"+secret+"\n")
	if err := f.Check(t.Context()); err != nil {
		t.Errorf("Check: %v", err)
	}
}

func TestManyLoginsWhileTheFileChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	write(t, path, "alice:"+secret+"\n")
	s, err := New(Config{Path: path}, hash.NewChecker(time.Minute), auth.NewLog(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	var start, moved = time.Now(), int64(0)
	var clock sync.Mutex
	s.now = func() time.Time { // each look is due
		clock.Lock()
		defer clock.Unlock()
		moved++
		return start.Add(time.Duration(moved) * lookEvery)
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 200 {
				if _, err := s.VerifyPassword(t.Context(), &auth.Peer{}, "alice", "secret"); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range 50 {
		renameOver(t, path, fmt.Sprintf("user%d:%s\nalice:%s\n", i, other, secret))
	}
	all.Wait()
}

func TestDefaultsAreValid(t *testing.T) {
	c := Defaults()
	c.Validate(func(key, why string) { t.Errorf("%s: %s", key, why) })
	c.Path = "users"
	complaints := 0
	c.Validate(func(key, _ string) {
		if complaints++; key != "path" {
			t.Errorf("complains of %s", key)
		}
	})
	if complaints != 1 {
		t.Errorf("%d complaints of a relative path", complaints)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("# users\n\nalice:" + secret + "\r\nbob:" + slow + ":1000:1000::/home/bob\n"))
	f.Add([]byte("alice:!\nalice:*\n:\n::\nx"))
	f.Add([]byte("\ufeffa:{CRYPT}$6$saltstring$\x00\nb:{}\n"))
	f.Add([]byte("a:" + strings.Repeat("x", maxLine)))
	f.Fuzz(func(t *testing.T, text []byte) {
		users, skipped, err := parse(text)
		if err != nil {
			return
		}
		lines := bytes.Count(text, []byte("\n")) + 1
		if len(users.hashes)+len(skipped) > lines {
			t.Errorf("%d users and %d problems in %d lines", len(users.hashes), len(skipped), lines)
		}
		for name, stored := range users.hashes {
			if err := checkName(name); err != nil {
				t.Errorf("user %q: %v", name, err)
			}
			if _, err := hash.Parse(stored); err != nil {
				t.Errorf("user %q: %v", name, err)
			}
		}
		// What is written can be read again, and changes nobody else.
		written := withHash(text, "new user", other)
		again, _, err := parse(written)
		if err != nil || again.hashes["new user"] != other {
			t.Fatalf("%q became %q: %v", text, written, err)
		}
		for name, stored := range users.hashes {
			if name != "new user" && again.hashes[name] != stored {
				t.Errorf("user %q changed in %q", name, written)
			}
		}
	})
}

func BenchmarkParse100kUsers(b *testing.B) {
	var text bytes.Buffer
	for i := range 100_000 {
		fmt.Fprintf(&text, "user%d@example.org:%s\n", i, slow)
	}
	b.SetBytes(int64(text.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if users, skipped, err := parse(text.Bytes()); err != nil || len(users.hashes) != 100_000 || len(skipped) != 0 {
			b.Fatal(len(users.hashes), skipped, err)
		}
	}
}

func BenchmarkVerifyRemembered(b *testing.B) {
	path := filepath.Join(b.TempDir(), "users")
	if err := os.WriteFile(path, []byte("alice:"+secret+"\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	s, err := New(Config{Path: path}, hash.NewChecker(time.Minute), auth.NewLog(slog.New(slog.DiscardHandler)))
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
