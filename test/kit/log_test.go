package kit

import (
	"fmt"
	"slices"
	"sync"
	"testing"
)

func TestGlob(t *testing.T) {
	for _, test := range []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true},
		{"a", "a", true},
		{"a", "ab", false},
		{"*", "", true},
		{"a*", "a", true},
		{"a*", "ba", false},
		{"*a", "aba", true},
		{"*a", "ab", false},
		{"a*a", "a", false}, // one "a" does not match twice
		{"a*b*c", "a-b-b-c", true},
		{"a*b*c", "a-c-b", false},
		{"*b*", "abc", true},
	} {
		if got := Glob(test.pattern, test.s); got != test.want {
			t.Errorf("Glob(%q, %q) = %v", test.pattern, test.s, got)
		}
	}
}

func TestLogBuffer(t *testing.T) {
	var b LogBuffer
	if b.Lines() != nil || b.Count("") != 0 || b.First("") != "" {
		t.Errorf("an empty buffer has the lines %q", b.Lines())
	}
	var all sync.WaitGroup
	for n := range 10 {
		all.Go(func() { fmt.Fprintf(&b, "msg=refused code=55%d\n", n) })
	}
	all.Wait()
	if n := b.Count("msg=refused*code=55"); n != 10 {
		t.Errorf("%d lines of ten", n)
	}
	if line := b.First("code=557"); line != "msg=refused code=557" || !slices.Contains(b.Lines(), line) {
		t.Errorf("First is %q of %q", line, b.Lines())
	}
	if line := b.First("code=560"); line != "" {
		t.Errorf("First is %q", line)
	}
}
