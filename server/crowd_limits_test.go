package server

import (
	"bytes"
	"testing"
	"time"
)

// Command lines are kept in memory to their end, so only some connections may
// send long ones at once.
func TestConnLongTexts(t *testing.T) {
	var first *conn
	for i := range longTexts + 1 {
		c, far := connOver(t, Defaults().Limits)
		c.login()
		if first == nil {
			first = c
		}
		c.long = first.long
		go func() { _, _ = far.Write(bytes.Repeat([]byte("x"), freeText+1)) }()
		err := error(nil)
		for sent := 0; sent <= freeText && err == nil; {
			var n int
			n, err = c.Read(make([]byte, 4096))
			sent += n
		}
		if (err == nil) != (i < longTexts) {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	first.drop()
	if n := first.long.Load(); n != longTexts {
		t.Errorf("%d long texts after one connection has ended, want %d", n, longTexts)
	}
}

// A place that is taken by silence is given to somebody else in the end.
func TestOldestStrangerMakesRoom(t *testing.T) {
	s := &Server{conns: make(map[*conn]struct{})}
	var dropped []int
	for i, age := range []time.Duration{time.Second, time.Minute, time.Hour} {
		c, _ := connOver(t, Defaults().Limits)
		c.begun = time.Now().Add(-age)
		c.closed = func() { dropped = append(dropped, i); s.remove(c) }
		if age == time.Hour {
			c.login()
		}
		s.conns[c] = struct{}{}
	}
	if !s.dropOldestStranger() || s.dropOldestStranger() {
		t.Error("want one to be dropped, and the one that has just come to stay")
	}
	if len(dropped) != 1 || dropped[0] != 1 {
		t.Errorf("dropped %v, want the oldest that has not logged in", dropped)
	}
}
