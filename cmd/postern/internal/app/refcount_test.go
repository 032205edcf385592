package app

import "testing"

func TestRefCountedClosesUnusedValues(t *testing.T) {
	var r refCounted[string]
	closed := make(map[string]int)
	replace := func(v string) { r.Replace(v, func() { closed[v]++ }) }
	want := func(v string, n int) {
		t.Helper()
		if closed[v] != n {
			t.Errorf("%q was closed %d times, want %d", v, closed[v], n)
		}
	}

	replace("first")
	one, releaseOne := r.Acquire()
	two, releaseTwo := r.Acquire()
	replace("second")
	if three, release := r.Acquire(); one != "first" || two != "first" || three != "second" {
		t.Errorf("acquired %q, %q, %q", one, two, three)
	} else {
		release()
	}
	want("first", 0)
	releaseOne()
	releaseOne() // a second call has no effect
	want("first", 0)
	releaseTwo()
	want("first", 1)

	replace("third")
	want("second", 1)
	_, release := r.Acquire()
	r.Retire()
	want("third", 0)
	release()
	want("third", 1)
	_, release = r.Acquire() // by a session that was aborted at shutdown
	release()
	want("third", 1)
}
