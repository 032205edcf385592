package server

import (
	"bytes"
	"container/list"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A place that is taken by silence is given to somebody else in the end.
func TestOldestStrangerMakesRoom(t *testing.T) {
	s := &Server{conns: make(map[*conn]*list.Element)}
	var dropped []int
	const known = 2 * time.Hour // where it comes from
	// The last one has just come, however long this takes.
	for i, age := range []time.Duration{known, time.Hour, time.Minute, -time.Minute} {
		w, _ := wireOver(t, Defaults().Limits)
		c := w.conn
		c.begun = time.Now().Add(-age)
		c.admitted = func() { s.known(c) }
		c.closed = func() { dropped = append(dropped, i); s.remove(c) }
		s.add(c, age != known)
		if age == time.Hour {
			c.admit()
		}
	}
	if !s.dropOldestStranger() || s.dropOldestStranger() {
		t.Error("want one to be dropped, and the one that has just come to stay")
	}
	if len(dropped) != 1 || dropped[0] != 2 {
		t.Errorf("dropped %v, want the oldest that has not logged in", dropped)
	}
}

// A client that logs in while it is dropped never hears that it has: the line of
// the log stands between the choice of a stranger and the end of its connection.
func TestDroppedClientIsNotLoggedIn(t *testing.T) {
	s := &Server{conns: make(map[*conn]*list.Element)}
	w, client := wireOver(t, Defaults().Limits)
	c := w.conn
	c.begun = time.Now().Add(-time.Hour)
	c.admitted = func() { s.known(c) }
	c.closed = func() { s.remove(c) }
	c.log.Logger = slog.New(slog.NewTextHandler(writerFunc(func(line []byte) {
		if bytes.Contains(line, []byte("connection dropped")) {
			c.admit()
			_ = c.send([]byte("235 2.7.0 Authentication successful\r\n"))
		}
	}), nil))
	s.add(c, true)
	if !s.dropOldestStranger() {
		t.Fatal("nobody was dropped")
	}
	if heard, _ := io.ReadAll(client); len(heard) > 0 {
		t.Errorf("the client has heard %q and was dropped", heard)
	}
}

type writerFunc func(line []byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }

// Those who make room at the same time end a connection each.
func TestEachMakesRoom(t *testing.T) {
	s := &Server{conns: make(map[*conn]*list.Element)}
	const crowd = 8
	var ended atomic.Int32
	for range crowd {
		w, _ := wireOver(t, Defaults().Limits)
		c := w.conn
		c.begun = time.Now().Add(-time.Hour)
		c.closed = func() { ended.Add(1); s.remove(c) }
		s.add(c, true)
	}
	var all sync.WaitGroup
	for range crowd {
		all.Go(func() {
			if !s.dropOldestStranger() {
				t.Error("nobody was dropped")
			}
		})
	}
	all.Wait()
	if n := ended.Load(); n != crowd {
		t.Errorf("%d connections have ended for %d that were to have room", n, crowd)
	}
}
