package relay

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/textproto"
	"strings"
	"testing"

	"postern/relay/relaytest"
)

// wireForm is what writeBody makes of a message, with the end of data that
// its caller adds.
func wireForm(message string, buffer int) (string, error) {
	var out bytes.Buffer
	w := bufio.NewWriter(&out)
	err := writeBody(w, bufio.NewReaderSize(strings.NewReader(message), buffer))
	w.WriteString("\r\n.\r\n")
	w.Flush()
	return out.String(), err
}

func TestWriteBody(t *testing.T) {
	long := strings.Repeat("x", 100)
	tests := []struct{ name, message, want string }{
		{"empty", "", "\r\n.\r\n"},
		{"empty line", "\r\n", "\r\n.\r\n"},
		{"one line", "a\r\n", "a\r\n.\r\n"},
		{"no CRLF at the end", "a\r\nb", "a\r\nb\r\n.\r\n"},
		{"empty lines at the end", "a\r\n\r\n\r\n", "a\r\n\r\n\r\n.\r\n"},
		{"dot", ".\r\n", "..\r\n.\r\n"},
		{"dot first", ".a\r\n", "..a\r\n.\r\n"},
		{"dot without CRLF", "a\r\n.", "a\r\n..\r\n.\r\n"},
		{"dots", "..\r\n.\r\na.\r\n", "...\r\n..\r\na.\r\n.\r\n"},
		{"lines longer than the buffer", long + "\r\n." + long + "\r\n", long + "\r\n.." + long + "\r\n.\r\n"},
		{"8-bit", "\xe4\xff\x80\r\n", "\xe4\xff\x80\r\n.\r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for buffer := 16; buffer < 40; buffer++ {
				got, err := wireForm(tt.message, buffer)
				if err != nil || got != tt.want {
					t.Fatalf("buffer of %d: got %q, error %v; want %q", buffer, got, err, tt.want)
				}
			}
		})
	}
}

func TestWriteBodyRefusesUncleanBytes(t *testing.T) {
	for _, message := range []string{
		"a\nb\r\n", "a\rb\r\n", "a\r\r\n", "a\r", "a\n", "\n", "\r", "a\x00b\r\n",
		"a\r\n.\nMAIL FROM:<x>\r\n", "a\n.\r\nMAIL FROM:<x>\r\n", "a\r.\r", "a\r\n.\r",
		strings.Repeat("x", 15) + "\rx\r\n", strings.Repeat("x", 15) + "\n\r\n", strings.Repeat("x", 16) + "\r",
	} {
		for buffer := 16; buffer < 40; buffer++ {
			if got, err := wireForm(message, buffer); !errors.Is(err, errUnclean) {
				t.Errorf("%q with a buffer of %d: wrote %q, error %v", message, buffer, got, err)
			}
		}
	}
}

func TestWriteBodyReportsFailures(t *testing.T) {
	broken := errors.New("broken")
	in := bufio.NewReader(io.MultiReader(strings.NewReader("a\r\n"), readerFunc(func([]byte) (int, error) { return 0, broken })))
	if err := writeBody(bufio.NewWriter(io.Discard), in); !errors.Is(err, broken) {
		t.Errorf("reading: %v", err)
	}
	out := bufio.NewWriterSize(writerFunc(func([]byte) (int, error) { return 0, broken }), 16)
	if err := writeBody(out, bufio.NewReader(strings.NewReader(strings.Repeat("a\r\n", 100)))); !errors.Is(err, broken) {
		t.Errorf("writing: %v", err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// A clean message comes out at the other end as it was, one that is not clean
// never gets there.
func FuzzWriteBody(f *testing.F) {
	for _, s := range []string{"", ".\r\n", "a\r\n.\r\nb", "a\n.\nb", "\r\n\r\n", "..\r", "a\x00\r\n", strings.Repeat("x", 40) + "\r\n."} {
		f.Add(s, uint8(16))
	}
	f.Fuzz(func(t *testing.T, message string, buffer uint8) {
		wire, err := wireForm(message, int(buffer))
		rest := strings.ReplaceAll(message, "\r\n", "")
		if clean := !strings.ContainsAny(rest, "\r\n\x00"); clean != (err == nil) {
			t.Fatalf("%q: clean is %v, error %v", message, clean, err)
		}
		if err != nil {
			return
		}
		in := bufio.NewReader(strings.NewReader(wire))
		got, err := io.ReadAll(textproto.NewReader(in).DotReader())
		if err != nil || in.Buffered() > 0 {
			t.Fatalf("%q ends too early or not at all: %q, %v", message, wire, err)
		}
		want := strings.ReplaceAll(message, "\r\n", "\n")
		if !strings.HasSuffix(want, "\n") {
			want += "\n"
		}
		if string(got) != want {
			t.Errorf("%q arrives as %q", message, got)
		}
	})
}

// No path of a message to a hop, short or long, changes a byte of it.
func TestBodiesArriveUnchanged(t *testing.T) {
	config, ca := certificate(t)
	for name, options := range map[string]relaytest.Options{
		"clear text": {},
		"TLS":        {TLS: config, Implicit: true},
	} {
		t.Run(name, func(t *testing.T) {
			hop := relaytest.New(t, options)
			r := newRouter(t, func(c *Config) { c.CAFile = ca }, hop)
			for _, body := range []string{
				"", "\r\n", ".\r\n", "..\r\n.\r\n", strings.Repeat(".\r\n", 20000),
				strings.Repeat("x", 200<<10) + "\r\n", strings.Repeat("0123456789\r\n", 100000),
			} {
				want := "Subject: test\r\n\r\n" + body
				deliver(t, r, newMessage(t, want))
				all := hop.Delivered()
				if got := string(all[len(all)-1].Data); got != want {
					t.Errorf("%d bytes arrive as %d", len(want), len(got))
				}
			}
		})
	}
}

func BenchmarkWriteBody(b *testing.B) {
	line := strings.Repeat("x", 76) + "\r\n"
	for name, message := range map[string]string{
		"lines": strings.Repeat(line, 1<<20/len(line)),
		"dots":  strings.Repeat(".\r\n", 1<<20/3),
	} {
		b.Run(name, func(b *testing.B) {
			in, out := bufio.NewReaderSize(nil, blockSize), bufio.NewWriterSize(nil, blockSize)
			b.SetBytes(int64(len(message)))
			b.ReportAllocs()
			for b.Loop() {
				in.Reset(strings.NewReader(message))
				out.Reset(io.Discard)
				if err := writeBody(out, in); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/DotWriter", func(b *testing.B) { // what it stands in for
			b.SetBytes(int64(len(message)))
			for b.Loop() {
				w := textproto.NewWriter(bufio.NewWriter(io.Discard)).DotWriter()
				io.WriteString(w, message)
				w.Close()
			}
		})
	}
}
