package message

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
)

// stageAll stages text in blocks of n bytes.
func stageAll(s *Stage, o Options, text string, n int) (*Message, error) {
	w := s.New(o)
	for len(text) > 0 {
		n := min(n, len(text))
		if _, err := w.Write([]byte(text[:n])); err != nil {
			return nil, err
		}
		text = text[n:]
	}
	return w.Message()
}

func mustStage(t testing.TB, text string) *Message {
	t.Helper()
	m, err := stageAll(NewStage(t.TempDir(), 1<<20), Options{}, text, len(text)+1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func text(t testing.TB, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The header and the body of messages; an empty line is inserted between them.
var splits = []struct{ name, in, head, body string }{
	{"plain", "A: 1\r\nB: 2\r\n\r\nbody\r\n", "A: 1\r\nB: 2\r\n", "body\r\n"},
	{"folded", "A: 1\r\n\t2\r\n \r\nB: 3\r\n\r\nbody\r\n", "A: 1\r\n\t2\r\n \r\nB: 3\r\n", "body\r\n"},
	{"empty", "", "", ""},
	{"only the empty line", "\r\n", "", ""},
	{"no body", "A: 1\r\n\r\n", "A: 1\r\n", ""},
	{"no empty line", "A: 1\r\n", "A: 1\r\n", ""},
	{"no header", "Hello\r\nA: 1\r\n", "", "Hello\r\nA: 1\r\n"},
	{"empty line first", "\r\nA: 1\r\n", "", "A: 1\r\n"},
	{"blank first", " A: 1\r\nB: 2\r\n\r\nbody\r\n", "", " A: 1\r\nB: 2\r\n\r\nbody\r\n"},
	{"body without empty line", "A: 1\r\nHello: \r\nWorld\r\n\r\nx\r\n", "A: 1\r\nHello: \r\n", "World\r\n\r\nx\r\n"},
	{"empty field name", "A: 1\r\n: 2\r\nB: 3\r\n", "A: 1\r\n", ": 2\r\nB: 3\r\n"},
	{"blanks before the colon", "A \t: 1\r\n\r\n", "A \t: 1\r\n", ""},
	{"blank in the name", "A B: 1\r\n\r\n", "", "A B: 1\r\n\r\n"},
	{"8-bit name", "\xc3\xa4: 1\r\n", "", "\xc3\xa4: 1\r\n"},
	{"no blank after the colon", "A:1\r\nB:\r\n\r\n", "A:1\r\nB:\r\n", ""},
	{"mbox", "From a@example.org Mon\r\nA: 1\r\n\r\nx\r\n", "X-Mailbox-Line: From a@example.org Mon\r\nA: 1\r\n", "x\r\n"},
	{"obsolete From is no mbox", "From : a@example.org\r\n\r\n", "From : a@example.org\r\n", ""},
	{"mbox line further on", "A: 1\r\nFrom x\r\n\r\n", "A: 1\r\n", "From x\r\n\r\n"},
}

func TestSplit(t *testing.T) {
	for _, c := range splits {
		t.Run(c.name, func(t *testing.T) {
			m := mustStage(t, c.in)
			if got, want := text(t, m.Reader()), c.head+"\r\n"+c.body; got != want {
				t.Errorf("message\n got %q\nwant %q", got, want)
			}
			if got := text(t, m.Body()); got != c.body {
				t.Errorf("body %q, want %q", got, c.body)
			}
			if got, want := m.Size(), int64(len(c.head)+2+len(c.body)); got != want {
				t.Errorf("size %d, want %d", got, want)
			}
			var head string
			for f := range m.Fields() {
				head += string(f.Raw)
			}
			if head != c.head {
				t.Errorf("fields %q, want %q", head, c.head)
			}
		})
	}
}

func TestViews(t *testing.T) {
	m := mustStage(t, "A: 1\r\nB : 2\r\n  3\r\na:4\r\n\r\nbody\r\n")
	h := m.Header()
	if got := h.Values("a"); len(got) != 2 || got[0] != "1" || got[1] != "4" {
		t.Errorf("Values: %q", got)
	}
	h.Del("A")
	h.AddRaw([]byte("Received: x\r\n"))
	v, err := m.WithHeader(h)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := text(t, v.Reader()), "Received: x\r\nB : 2\r\n  3\r\n\r\nbody\r\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := text(t, m.Reader()), "A: 1\r\nB : 2\r\n  3\r\na:4\r\n\r\nbody\r\n"; got != want {
		t.Errorf("the first view changed: %q", got)
	}
	if v.Size() != int64(len(text(t, v.Reader()))) {
		t.Errorf("size %d", v.Size())
	}
}

func TestWithHeaderRefusesInjection(t *testing.T) {
	m := mustStage(t, "A: 1\r\n\r\n")
	for _, raw := range []string{"B: 1\r\n\r\nbody\r\n", "B: 1\r\nC: 2\r\n", "B: 1\n", "B: 1", "B: \x00\r\n", ": 1\r\n", "B: 1\r\n\r\n"} {
		h := m.Header()
		h.AddRaw([]byte(raw))
		if _, err := m.WithHeader(h); err == nil {
			t.Errorf("%q was accepted", raw)
		}
	}
}

func TestEdit(t *testing.T) {
	m := mustStage(t, "A: 1\r\nBcc: x\r\nB :2\r\n\r\nbody\r\n")
	top, err := NewField("Received", "from x\r\n\tby y")
	if err != nil {
		t.Fatal(err)
	}
	bottom, err := NewField("Date", "now")
	if err != nil {
		t.Fatal(err)
	}
	v := m.Edit(Edit{
		Top:    []Field{top},
		Bottom: []Field{bottom},
		Each: func(f Field) (Field, bool) {
			if f.Is("b") {
				f, err = f.WithValue([]byte("3\r\n 4"))
			}
			return f, !f.Is("BCC")
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := "Received: from x\r\n\tby y\r\nA: 1\r\nB :3\r\n 4\r\nDate: now\r\n\r\nbody\r\n"
	if got := text(t, v.Reader()); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestEightBit(t *testing.T) {
	for _, c := range []struct {
		in           string
		header, both bool
	}{
		{"A: 1\r\n\r\nbody\r\n", false, false},
		{"A: \xe4\r\n\r\nbody\r\n", true, true},
		{"A: 1\r\n\r\n\xe4", false, true},
		{"A: 1\r\n\r\nbody \xe4 and more than eight bytes after it\r\n", false, true},
		{"A: 1\r\n\xe4\r\n", false, true},
	} {
		for n := 1; n < 20; n++ {
			m, err := stageAll(NewStage(t.TempDir(), 1<<20), Options{}, c.in, n)
			if err != nil {
				t.Fatal(err)
			}
			if m.HeaderEightBit() != c.header || m.EightBit() != c.both {
				t.Errorf("%q in blocks of %d: header %v, message %v", c.in, n, m.HeaderEightBit(), m.EightBit())
			}
			m.Close()
		}
	}
}

func TestHeaderBounds(t *testing.T) {
	dir := t.TempDir()
	line := strings.Repeat("x", 990) + "\r\n"
	for _, c := range []struct {
		name, in string
		err      error
	}{
		{"many bytes in one field", "A: 1\r\n" + strings.Repeat(" "+line, 1100) + "\r\nbody\r\n", ErrHeaderTooLarge},
		{"many bytes in many fields", strings.Repeat("A: "+line, 1100) + "\r\nbody\r\n", ErrHeaderTooLarge},
		{"many fields", strings.Repeat("a:\r\n", maxFields+1) + "\r\n", ErrHeaderTooLarge},
		{"just as many fields", strings.Repeat("a:\r\n", maxFields) + "\r\n", nil},
		{"large header", strings.Repeat("A: "+line, 1000) + "\r\nbody\r\n", nil},
		{"large body without header", strings.Repeat(line, 2000), nil},
		{"long line without header", strings.Repeat("x", maxLine) + "\r\n", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := NewStage(dir, 8<<20)
			m, err := stageAll(s, Options{}, c.in, 32<<10)
			if !errors.Is(err, c.err) {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			if err == nil {
				got := text(t, m.Reader())
				if !strings.HasSuffix(got, c.in) || len(got) > len(c.in)+2 {
					t.Errorf("message of %d bytes came back as %d", len(c.in), len(got))
				}
				m.Close()
			}
			if n := s.InMemory(); n != 0 {
				t.Errorf("%d bytes were not released", n)
			}
		})
	}
}

func TestReadersAtOnce(t *testing.T) {
	body := strings.Repeat("0123456789abcdef\r\n", 20<<10)
	m := mustStage(t, "A: 1\r\n\r\n"+body)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if got := text(t, m.Body()); got != body {
				t.Error("body differs")
			}
			m.Header()
			if _, err := m.WithHeader(m.Header()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// For any message, the header is returned as it was, and the views are consistent.
func FuzzHeader(f *testing.F) {
	for _, c := range splits {
		f.Add([]byte(c.in))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		s := NewStage("", 1<<20)
		m, err := stageAll(s, Options{}, string(in), len(in)+1)
		if err != nil {
			return
		}
		defer m.Close()
		clean, err := io.ReadAll(io.NewSectionReader(m.store, 0, m.store.size))
		if err != nil {
			t.Fatal(err)
		}
		whole := []byte(text(t, m.Reader()))
		got, want := undoInserted(whole, len(m.head)-2, clean), clean
		if !bytes.Equal(got, want) {
			t.Errorf("in  %q\nout %q", want, whole)
		}
		again, err := m.WithHeader(m.Header())
		if err != nil {
			t.Fatal(err)
		}
		if text(t, again.Reader()) != string(whole) {
			t.Errorf("%q: a view with the same header differs", in)
		}
		if same := m.Edit(Edit{}); text(t, same.Reader()) != string(whole) {
			t.Errorf("%q: an empty edit changes", in)
		}
		twice, err := stageAll(s, Options{}, string(whole), len(whole)+1)
		if err != nil {
			t.Fatal(err)
		}
		defer twice.Close()
		if text(t, twice.Reader()) != string(whole) {
			t.Errorf("%q: staged again it differs", whole)
		}
	})
}

// undoInserted removes what split may add: the name of the field for an mbox line, and the
// empty line at offset n.
func undoInserted(whole []byte, n int, clean []byte) []byte {
	if len(whole) > len(clean) && bytes.HasPrefix(whole, []byte("X-Mailbox-Line: ")) && !bytes.HasPrefix(clean, []byte("X-Mailbox-Line: ")) {
		whole, n = whole[len("X-Mailbox-Line: "):], n-len("X-Mailbox-Line: ")
	}
	if len(whole) == len(clean)+2 {
		whole = append(bytes.Clone(whole[:n]), whole[n+2:]...)
	}
	return whole
}
