package main

import "testing"

func TestHandoverEndsWhatIsNotInUse(t *testing.T) {
	var h handover[string]
	ended := make(map[string]int)
	set := func(v string) { h.set(v, func() { ended[v]++ }) }
	want := func(v string, n int) {
		t.Helper()
		if ended[v] != n {
			t.Errorf("%q has ended %d times, want %d", v, ended[v], n)
		}
	}

	set("first")
	one, leaveOne := h.take()
	two, leaveTwo := h.take()
	set("second")
	if three, leave := h.take(); one != "first" || two != "first" || three != "second" {
		t.Errorf("took %q, %q, %q", one, two, three)
	} else {
		leave()
	}
	want("first", 0)
	leaveOne()
	leaveOne() // a second Close
	want("first", 0)
	leaveTwo()
	want("first", 1)

	set("third")
	want("second", 1)
	_, late := h.take()
	h.finish()
	want("third", 0)
	late()
	want("third", 1)
	_, later := h.take() // a session that had to be cut
	later()
	want("third", 1)
}
