package kit

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// A Shape is a kind of text that a hostile client may send.
type Shape struct {
	Name string
	Make func(size int) string // the text, of about size bytes
}

// HostileHeaders are whole messages whose headers are large or deeply nested in one way each.
// The author is of example.org wherever there is one.
func HostileHeaders() []Shape {
	const from, end = "From: a@example.org\r\n", "\r\nHello\r\n"
	in := func(name, before, unit, after string) Shape {
		return Shape{name, func(size int) string {
			return before + strings.Repeat(unit, max(1, (size-len(before)-len(after))/len(unit))) + after
		}}
	}
	shapes := []Shape{
		in("continuation lines in a field that is signed", from+"Subject:", "\r\n x", "\r\n"+end),
		{"many fields", func(size int) string { return from + numbered(size, "X-%d: y\r\n") + end }},
		{"nested groups", func(size int) string {
			return "From: " + numbered(size, "g%d: ") + "a@example.org;\r\n" + end
		}},
		{"comments within comments", func(size int) string {
			return "From: a@example.org " + strings.Repeat("(", size/2) + strings.Repeat(")", size/2) + "\r\n" + end
		}},
		{"encoded words of another charset each", func(size int) string {
			return from + "Subject: " + numbered(size, "=?utf-%d?q?x?=\r\n ") + "\r\n" + end
		}},
		{"fields From", func(size int) string { return numbered(size, "From: a%d@example.org\r\n") + end }},
		{"addresses of another domain each", func(size int) string {
			return from + "To: a@example.org" + numbered(size, ", a@d%d.example") + "\r\n" + end
		}},
	}
	for _, field := range []string{"From: ", "To: ", "X: "} {
		before, after := from+field, "\r\n"+end
		if field == "From: " {
			before, after = field, " a@example.org\r\n"+end
		}
		for _, u := range []struct{ name, unit string }{
			{"continuation lines", "\r\n "},
			{"continuation lines with text", "\r\n x"},
			{"a long word", "x"},
			{"words", "x "},
			{"blanks", " "},
			{"semicolons", ";"},
			{"commas", ","},
			{"words and commas", "x,"},
			{"addresses", "x@example.org,"},
			{"addresses with names", `"x" <x@example.org>,`},
			{"domains in Unicode", "x@\u00fc\u4e00.example,"},
			{"groups", "x:y;,"},
			{"open groups", "x:"},
			{"comments", "(x)"},
			{"open comments", "("},
			{"quotes", `"`},
			{"quoted strings", `"x"`},
			{"escapes", `\`},
			{"brackets", "<"},
			{"routes", "<@x,@y:"},
			{"domain literals", "[x]"},
			{"at signs", "@"},
			{"dots", "."},
			{"encoded words", "=?utf-8?q?x?= "},
			{"starts of encoded words", "=?"},
			{"open encoded words", "=?utf-8?q?"},
			{"characters of Unicode", "\u4e00"},
			{"bytes beyond ASCII", "\xff"},
		} {
			shapes = append(shapes, in(field+u.name, before, u.unit, after))
		}
	}
	for _, unit := range []string{"From:\r\n", "From: a@example.org\r\n", "To: x\r\n", "To:\r\n", "Received: x\r\n", "Bcc: x\r\n", "References: x\r\n", "X:\r\n", ">From x\r\n"} {
		shapes = append(shapes, in("fields "+strings.TrimSpace(unit), "", unit, end))
	}
	return shapes
}

// numbered repeats a format with one number up to about size bytes.
func numbered(size int, format string) string {
	var b strings.Builder
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

// growth is how much more an input of 16 times the size may cost: twice as much as linear
// growth, because append doubles small slices and adds a quarter to large ones.
const growth = 16 * 2

// LinearGrowth fails the test if the function that prepare returns allocates much more than
// 16 times the memory, or in more than 16 times as many pieces, for a text of 16 times the
// size. What is quadratic allocates 256 times as much. What prepare itself allocates does not
// count; nil means that the text is refused before. The test must not be parallel, since the
// memory of other tests counts, too.
func LinearGrowth(t *testing.T, shapes []Shape, size int, prepare func(text string) (do func())) {
	t.Helper()
	for _, s := range shapes {
		small, large := s.Make(size), s.Make(16*size)
		cost(prepare(small)) // what is allocated once
		a, b := cost(prepare(small)), cost(prepare(large))
		// The factor says little about small numbers: a text that fits into a buffer costs nothing.
		a.bytes, a.pieces = max(a.bytes, uint64(len(small))), max(a.pieces, uint64(len(small)/64))
		if b.bytes > growth*a.bytes || b.pieces > growth*a.pieces {
			t.Errorf("%s: %d bytes cost %d bytes in %d pieces, %d bytes cost %d in %d",
				s.Name, len(small), a.bytes, a.pieces, len(large), b.bytes, b.pieces)
		}
	}
}

// A memory is what was allocated.
type memory struct{ bytes, pieces uint64 }

// cost returns what do allocates: the least of two runs, since the runtime allocates, too.
func cost(do func()) memory {
	if do == nil {
		return memory{}
	}
	least := memory{1 << 63, 1 << 63}
	for range 2 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		do()
		runtime.ReadMemStats(&after)
		least.bytes = min(least.bytes, after.TotalAlloc-before.TotalAlloc)
		least.pieces = min(least.pieces, after.Mallocs-before.Mallocs)
	}
	return least
}
