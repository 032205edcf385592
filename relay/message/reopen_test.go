package message

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What a message wrote into the middle of a file is the same message again.
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
			if err := os.WriteFile(file, []byte("before"+text+"behind"), 0o600); err != nil {
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

// A file that has been cut short meanwhile does not end a message.
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
