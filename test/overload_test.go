package test

import (
	"net"
	"testing"
	"time"

	"postern/test/kit"
)

// A storm is what hostile or broken clients do to a server, all at once.
type storm struct {
	name   string
	limits string // lines of [server.limits]

	// rage lasts for some seconds and leaves no connection open. It says what
	// has come of it.
	rage func(p *postern) string
}

// With these limits nobody is turned away for want of a place.
const wideLimits = "connections = 15000\nconnections_per_client = 15000\nunauthenticated = 15000"

// Addresses are what limits and penalties go by: who has one is in another
// position than who has many. The guesses come first, since it takes them
// longest to be forgotten.
var storms = []storm{
	{"500 wrong passwords a second from one address", "", func(p *postern) string { return p.guessAll(500, oneAddress) }},
	{"500 wrong passwords a second from many addresses", "", func(p *postern) string { return p.guessAll(500, attacker) }},
	{"10,000 connections from one address", "", func(p *postern) string { return p.openAll(10000, oneAddress) }},
	{"10,000 connections from 500 addresses", "", func(p *postern) string { return p.openAll(10000, someAddresses) }},
	{"10,000 connections, all kept", wideLimits, func(p *postern) string { return p.openAll(10000, someAddresses) }},
	{"2,000 slow clients", "", func(p *postern) string { return p.dribbleAll(2000) }},
	{"2,000 slow clients, all kept", wideLimits, func(p *postern) string { return p.dribbleAll(2000) }},
}

// The password of the tests with bcrypt's usual cost, 10: a guess costs 60 ms of
// a processor, so 500 a second are 15 times what two of them can do.
const (
	costlyHash  = "$2a$10$rJq4P6PpWRDi6s4Auvm0E.L6TmUC//V49VbUOC76L0MUuvbMxeAG6"
	costlyUsers = "alice:" + costlyHash + "\nbob:" + costlyHash + "\ncarol:" + costlyHash + "\n"
)

// What a server may not exceed in a storm, of which it gets so many.
const (
	chances     = 3
	honestLimit = time.Second // of a hundred messages of honest users, 99 take less
	memoryLimit = 512 << 10   // KiB
)

// What is left of a storm once everybody has gone. The runtime of Go keeps what
// it has to know of each goroutine and of each piece of the heap that there
// ever was, for the next ones: 10,000 clients leave 15 MiB.
const (
	memoryLeft     = 32 << 10 // KiB
	goroutinesLeft = 8
	filesLeft      = 8
)

// Honest users go on as if nothing were the matter, the server stays small, and
// afterwards it is as it was. Each storm has a server of its own; that it gets
// over it is seen while the next ones rage.
//
// Nothing runs beside it in this package. How slow the machine is, and what else
// it does, an honest user may notice as much as he likes; and a storm that was
// too much gets a second chance, and a third.
func TestOverload(t *testing.T) {
	peer(t, "files")
	calm := startOverloaded(t, storm{})
	calm.startHonest(t).rest()
	usual := calm.goroutines(t)

	var past []aftermath
	for _, s := range storms {
		p := startOverloaded(t, s)
		a := aftermath{storm: s, server: p, usual: usual}
		p.startHonest(t).rest()
		a.memory, a.files = p.heap(t), p.files(t)
		t.Run(s.name, func(t *testing.T) { p.weather(t, s) })
		past = append(past, a)
	}
	for _, a := range past {
		t.Run("after "+a.storm.name, a.check)
	}
}

func startOverloaded(t *testing.T, s storm) *postern {
	t.Helper()
	p := newPostern(t, posternOptions{
		NextHop:  "smtp://" + startSink(t).Addr,
		Plain:    true,
		Sections: map[string]string{"server.limits": s.limits},
	})
	write(t, p.file("users"), costlyUsers)
	p.run(t)
	return p
}

// weather has honest users work in a storm.
func (p *postern) weather(t *testing.T, s storm) {
	f, limit := p.endure(t, s)
	for n := 1; n < chances && !f.good(limit); n++ {
		t.Log("once more, in case it was the machine")
		f, limit = p.endure(t, s)
	}
	if !f.good(limit) {
		t.Errorf("honest users were held up: %v", f)
	}
	most := p.mostMemory(t)
	t.Logf("memory: %d KiB at the most", most)
	if most >= memoryLimit {
		t.Errorf("the server has taken %d KiB of memory, want less than %d", most, memoryLimit)
	}
}

// endure returns how honest users fared in a storm, and what they have to put up
// with.
func (p *postern) endure(t *testing.T, s storm) (fate, time.Duration) {
	users := p.startHonest(t)
	begun := p.workSoFar(t)
	said := s.rage(p)
	f, ours, slow := users.rest(), p.workSoFar(t).share(begun), slowness(t)
	t.Logf("the storm: %s", said)
	t.Logf("honest users: %v", f)
	t.Logf("%.0f per cent of a machine that is %.1f times as slow as usual were there for this", 100*ours, slow)
	return f, time.Duration(float64(honestLimit) * slow / ours)
}

// An aftermath is a server that has been through a storm.
type aftermath struct {
	storm  storm
	server *postern
	memory int    // KiB of heap and stacks before it
	files  int    // open before it
	usual  census // of a server that has seen none
}

func (a aftermath) check(t *testing.T) {
	p := a.server
	// A guess whose turn has not come waits for half a minute, and its
	// connection with it.
	kit.Eventually(t, "connections to be closed", func() bool { return p.files(t) <= a.files+filesLeft })
	kit.Eventually(t, "memory to be given back", func() bool { return p.heap(t) <= a.memory+memoryLeft })
	t.Logf("memory: %d KiB before, %d afterwards", a.memory, p.heap(t))
	if err := p.sendOne("alice", 0); err != nil {
		t.Errorf("a user after the storm: %v", err)
	}
	left := p.goroutines(t)
	t.Logf("goroutines: %d of one without a storm, %d afterwards", a.usual.total(), left.total())
	if left.total() > a.usual.total()+goroutinesLeft {
		t.Errorf("%d goroutines are left, not %d: %v; want no more than %v", left.total(), a.usual.total(), left, a.usual)
	}
}

func oneAddress(int) *net.TCPAddr { return attacker(0) }

func someAddresses(i int) *net.TCPAddr { return attacker(i % 500) }
