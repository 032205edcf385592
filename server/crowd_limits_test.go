package server

import (
	"container/list"
	"testing"
	"time"
)

// A place that is taken by silence is given to somebody else in the end.
func TestOldestStrangerMakesRoom(t *testing.T) {
	s := &Server{conns: make(map[*conn]*list.Element)}
	var dropped []int
	for i, age := range []time.Duration{time.Hour, time.Minute, time.Second} {
		w, _ := wireOver(t, Defaults().Limits)
		c := w.conn
		c.begun = time.Now().Add(-age)
		c.admitted = func() { s.known(c) }
		c.closed = func() { dropped = append(dropped, i); s.remove(c) }
		s.add(c)
		if age == time.Hour {
			c.login()
		}
	}
	if !s.dropOldestStranger() || s.dropOldestStranger() {
		t.Error("want one to be dropped, and the one that has just come to stay")
	}
	if len(dropped) != 1 || dropped[0] != 1 {
		t.Errorf("dropped %v, want the oldest that has not logged in", dropped)
	}
}
