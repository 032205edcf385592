package message

import (
	"errors"
	"io"
	"strings"
	"testing"

	"postern/test/kit"
)

// base is the size that is compared with 16 times as much.
const base = 8 << 10

// Parsing a header, in memory and in a file, allocates in proportion to its size.
func TestStagingIsLinear(t *testing.T) {
	stage := NewStage(t.TempDir(), 64<<20)
	const long = 2 * spillSize // a body that makes a file
	for _, c := range []struct{ size, body int }{{2 << 10, 0}, {base, long}} {
		body := strings.Repeat("x\r\n", c.body/3)
		kit.LinearGrowth(t, kit.HostileHeaders(), c.size, func(text string) func() {
			return func() {
				w := stage.New(Options{})
				if _, err := io.WriteString(w, text+body); err != nil {
					t.Error(err)
				}
				m, err := w.Message()
				if err == nil {
					m.Close()
				} else if !errors.Is(err, ErrHeaderTooLarge) {
					t.Error(err)
				}
			}
		})
	}
}

// Reading addresses allocates in proportion to the header, whether it is valid or not.
func TestMailboxesAreLinear(t *testing.T) {
	kit.LinearGrowth(t, kit.HostileHeaders(), base, func(text string) func() {
		h, err := split([]byte(text), true)
		if err != nil {
			return nil
		}
		m := (&store{}).view(h.fields, h.head)
		return func() {
			for _, name := range []string{"From", "To", "X"} {
				m.Count(name)
				_, _ = m.Mailboxes(name)
			}
		}
	})
}

// An edit, and a copy for a library, allocate in proportion to the header.
func TestEditsAreLinear(t *testing.T) {
	kit.LinearGrowth(t, kit.HostileHeaders(), base, func(text string) func() {
		h, err := split([]byte(text), true)
		if err != nil {
			return nil
		}
		m := (&store{}).view(h.fields, h.head)
		return func() {
			edited := m.Edit(Edit{Top: h.fields[:1], Each: func(f Field) (Field, bool) {
				f, err := f.WithValue(f.Value())
				if err != nil {
					t.Error(err)
				}
				return f, true
			}})
			if _, err := edited.WithHeader(edited.Header()); err != nil {
				t.Error(err)
			}
		}
	})
}
