package message

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// write stages a small header and n bytes of body, and leaves the message open.
func write(t testing.TB, w *Writer, n int) {
	t.Helper()
	text := "A: 1\r\n\r\n" + strings.Repeat("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd\r\n", n/64)
	for block := range strings.SplitAfterSeq(text, "3\r\n") {
		if _, err := io.WriteString(w, block); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSmallMessagesCostLittle(t *testing.T) {
	s := NewStage(t.TempDir(), 1<<20)
	w := s.New(Options{})
	write(t, w, 2<<10)
	if n := s.InMemory(); n < 2<<10 || n > 8<<10 {
		t.Errorf("2 KiB take %d bytes", n)
	}
	w.Abort()
	if n := s.InMemory(); n != 0 {
		t.Errorf("%d bytes were not released", n)
	}
}

func TestAnnouncedSizeIsTakenAtOnce(t *testing.T) {
	s := NewStage(t.TempDir(), 1<<20)
	w := s.New(Options{Size: 40 << 10})
	for range 19 {
		write(t, w, 2<<10)
		if n := s.InMemory(); n != 40<<10 {
			t.Fatalf("%d bytes in memory", n)
		}
	}
	w.Abort()
}

func TestSpill(t *testing.T) {
	for _, c := range []struct {
		name    string
		memory  int64
		options Options
		size    int
		file    bool
	}{
		{"small", 1 << 20, Options{}, 50 << 10, false},
		{"large", 1 << 20, Options{}, 200 << 10, true},
		{"small with a short budget", 10 << 10, Options{}, 50 << 10, true},
		{"small without a budget", 0, Options{}, 2 << 10, true},
		{"to become large", 1 << 20, Options{Size: 200 << 10}, 2 << 10, true},
		{"larger than announced", 1 << 20, Options{Size: 2 << 10}, 50 << 10, false},
		{"large, announced as small", 1 << 20, Options{Size: 2 << 10}, 200 << 10, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			s := NewStage(dir, c.memory)
			w := s.New(c.options)
			write(t, w, c.size)
			if got := w.store.file != nil; got != c.file {
				t.Errorf("in a file: %v, want %v", got, c.file)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("names in the folder: %v, %v", left, err)
			}
			if c.file {
				info, err := w.store.file.Stat()
				if err != nil || info.Mode().Perm() != 0o600 {
					t.Errorf("%v, %v", info.Mode(), err)
				}
			}
			m, err := w.Message()
			if err != nil {
				t.Fatal(err)
			}
			if got := len(text(t, m.Body())); got != c.size/64*64 {
				t.Errorf("body of %d bytes, want %d", got, c.size/64*64)
			}
			if w.Received() != m.Size() {
				t.Errorf("received %d, size %d", w.Received(), m.Size())
			}
			if err := m.Edit(Edit{}).Close(); err != nil {
				t.Error(err)
			}
			if err := m.Close(); err != nil {
				t.Errorf("second Close: %v", err)
			}
			w.Abort()
			if n := s.InMemory(); n != 0 {
				t.Errorf("%d bytes are counted after Close", n)
			}
		})
	}
}

func TestCreateUnlinked(t *testing.T) {
	dir := t.TempDir()
	f, err := createUnlinked(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("names in the folder: %v, %v", left, err)
	}
}

// A failure of the disk is a StorageError.
func TestStorageError(t *testing.T) {
	s := NewStage(filepath.Join(t.TempDir(), "missing"), 0)
	w := s.New(Options{})
	_, err := io.WriteString(w, "A: 1\r\n")
	var storage *StorageError
	if !errors.As(err, &storage) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
	if _, again := w.Message(); again != err {
		t.Errorf("Message after an error: %v", again)
	}

	w = NewStage(t.TempDir(), 0).New(Options{})
	write(t, w, 1<<10)
	w.store.file.Close() // as a full disk would: the next write fails
	if _, err := io.WriteString(w, "body\r\n"); !errors.As(err, &storage) {
		t.Errorf("no disk: %v", err)
	}
}

// A large header is accepted only if there is memory for it, a small one always.
func TestHeadersAndBudget(t *testing.T) {
	for _, c := range []struct {
		memory int64
		size   int
		taken  bool
	}{
		{0, 10 << 10, true},
		{200 << 10, 900 << 10, false},
		{4 << 20, 900 << 10, true},
	} {
		s := NewStage(t.TempDir(), c.memory)
		m, err := stageAll(s, Options{}, strings.Repeat("A: "+strings.Repeat("x", 1000)+"\r\n", c.size>>10)+"\r\n", 32<<10)
		var storage *StorageError
		if c.taken != (err == nil) || !c.taken && !errors.As(err, &storage) {
			t.Errorf("%+v: %v", c, err)
		}
		if err == nil {
			m.Close()
		}
		if n := s.InMemory(); n != 0 {
			t.Errorf("%+v: %d bytes were not released", c, n)
		}
	}
}

func TestErrorsAreFinal(t *testing.T) {
	s := NewStage(t.TempDir(), 1<<20)
	w := s.New(Options{BareNewlines: Reject})
	write(t, w, 1<<10)
	if _, err := io.WriteString(w, "a\nb"); err != ErrBareNewline {
		t.Errorf("%v", err)
	}
	if s.InMemory() != 0 {
		t.Error("the memory of a refused message is not released")
	}
	if _, err := io.WriteString(w, "c\r\n"); err != ErrBareNewline {
		t.Errorf("%v", err)
	}
	if _, err := w.Message(); err != ErrBareNewline {
		t.Errorf("%v", err)
	}
	w = s.New(Options{})
	w.Abort()
	w.Abort()
	if _, err := w.Message(); err != ErrClosed {
		t.Errorf("%v", err)
	}
}

// Many messages at the same time use no more memory than the limit, and release all of it.
func TestBudgetHolds(t *testing.T) {
	s := NewStage(t.TempDir(), 256<<10)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for range 8 {
				w := s.New(Options{})
				write(t, w, (i+1)*10<<10)
				if n := s.InMemory(); n > 256<<10+16*64 { // headers come on top
					t.Errorf("%d bytes in memory", n)
				}
				if i%4 == 0 {
					w.Abort()
					continue
				}
				m, err := w.Message()
				if err != nil {
					t.Error(err)
					continue
				}
				m.Close()
			}
		})
	}
	wg.Wait()
	if n := s.InMemory(); n != 0 {
		t.Errorf("%d bytes were not released", n)
	}
}

func TestBareNewlinesText(t *testing.T) {
	for _, b := range []BareNewlines{Normalize, Reject} {
		text, err := b.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		back := Normalize
		if err := back.UnmarshalText(text); err != nil || back != b {
			t.Errorf("%q: %v, %v", text, back, err)
		}
	}
	var b BareNewlines
	if err := b.UnmarshalText([]byte("yes")); err == nil {
		t.Error("\"yes\" was accepted")
	}
}

func BenchmarkStage(b *testing.B) {
	const line = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd"
	for _, c := range []struct{ name, end string }{{"clean", "\r\n"}, {"bareLF", "\n"}} {
		for _, size := range []int{2 << 10, 1 << 20} {
			b.Run(fmt.Sprintf("%s/%dKiB", c.name, size>>10), func(b *testing.B) {
				s := NewStage(b.TempDir(), 64<<20)
				text := []byte("From: a@example.org\r\nTo: b@example.org\r\nSubject: x\r\n\r\n" + strings.Repeat(line+c.end, size/64))
				b.SetBytes(int64(len(text)))
				b.ReportAllocs()
				for b.Loop() {
					w := s.New(Options{})
					for rest := text; len(rest) > 0; {
						n := min(len(rest), 32<<10)
						if _, err := w.Write(rest[:n]); err != nil {
							b.Fatal(err)
						}
						rest = rest[n:]
					}
					m, err := w.Message()
					if err != nil {
						b.Fatal(err)
					}
					m.Close()
				}
			})
		}
	}
}

// A message that was written into the middle of a file can be reopened.
func TestReopen(t *testing.T) {
	for name, text := range map[string]string{
		"plain":     "From: a@example.org\r\nSubject: x\r\n\r\nbody\r\n",
		"no body":   "From: a@example.org\r\n\r\n",
		"no header": "\r\nbody\r\n",
		"8-bit":     "From: a@example.org\r\n\r\nb\xc3\xb6dy\r\n",
		"large":     "From: a@example.org\r\n\r\n" + strings.Repeat("0123456789\r\n", 30000),
	} {
		t.Run(name, func(t *testing.T) {
			stage := NewStage(t.TempDir(), 1<<20)
			file := filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(file, []byte("before"+text+"after"), 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			m, err := stage.Reopen(f, 6, int64(len(text)), strings.Contains(text, "\xc3"))
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(m.Reader())
			if err != nil || string(got) != text {
				t.Errorf("read %q, %v", got[:min(len(got), 100)], err)
			}
			if m.EightBit() != (name == "8-bit") {
				t.Errorf("EightBit: %v", m.EightBit())
			}
			if err := m.Close(); err != nil {
				t.Error(err)
			}
			if f.Close() == nil {
				t.Error("the file was left open")
			}
			if n := stage.InMemory(); n != 0 {
				t.Errorf("%d bytes are still accounted for", n)
			}
		})
	}
}

// If a file has become shorter, reading the message fails.
func TestReopenCutShort(t *testing.T) {
	text := "From: a@example.org\r\n\r\n" + strings.Repeat("0123456789\r\n", 5000)
	for _, size := range []int{4, 100, len(text) - 12} {
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, []byte(text[:size]), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		m, err := NewStage("", 1<<20).Reopen(f, 0, int64(len(text)), false)
		if err == nil {
			_, err = io.ReadAll(m.Reader())
			_ = m.Close()
		}
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}
