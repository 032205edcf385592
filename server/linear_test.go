package server

import (
	"strings"
	"testing"

	"postern/relay/relaytest"
	"postern/test/kit"
)

// The fix-ups allocate in proportion to the header, whatever it contains.
func TestFixHeaderIsLinear(t *testing.T) {
	for _, size := range []int{2 << 10, 16 << 10} {
		kit.LinearGrowth(t, kit.HostileHeaders(), size, func(text string) func() {
			m := relaytest.TryStage(t, text)
			if m == nil {
				return nil
			}
			return func() {
				fixed, err := fixHeader(m, testFixUps())
				if err == nil && fixed.Size() > 2*m.Size()+maxCompleted*int64(len("@example.org")) {
					t.Errorf("%d bytes became %d", m.Size(), fixed.Size())
				}
			}
		})
	}
}

// A message with more incomplete addresses than are completed keeps them as they are, field by
// field.
func TestFixHeaderCompletesOnlySoMany(t *testing.T) {
	f := testFixUps()
	f.Origin = strings.Repeat("a.", 120) + "example.org"
	field := func(n int) string { return "To: " + strings.TrimSuffix(strings.Repeat("x,", n), ",") + "\r\n" }
	in := whole + field(maxCompleted-1) + field(2) + field(1) + field(1) + "\r\n"
	completed := strings.ReplaceAll(field(maxCompleted-1), "x", "x@"+f.Origin)
	want := f.Trace.field() + whole + completed + field(2) + "To: x@" + f.Origin + "\r\n" + field(1) + "\r\n"
	if got := fixText(t, in, f); got != want {
		t.Errorf("got %d bytes, want %d; the end is %.200q", len(got), len(want), got[len(got)-100:])
	}
}

// What the client names itself appears in the Received field cut and without odd characters.
func TestReceivedFieldIsBounded(t *testing.T) {
	usual := testTrace()
	lines := strings.Count(usual.field(), "\n")
	for _, unit := range []string{"a.", "(", "\u4e00", "\xff", "\r\n X: ", "]"} {
		f := testTrace()
		f.Helo, f.PTR = strings.Repeat(unit, 10000), strings.Repeat(unit, 10000)
		if got := f.field(); len(got) > 1000 || strings.Count(got, "\n") != lines {
			t.Errorf("%d bytes: %.200q", len(got), got)
		}
	}
}
