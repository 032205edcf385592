package test

import (
	"net"
	"testing"
	"time"

	"postern/test/kit"
)

// An attack is what many hostile or broken clients do to a server at the same time.
type attack struct {
	name   string
	limits string // lines of [server.limits]

	// run takes some seconds and leaves no connection open. It returns a summary.
	run func(p *postern) string
}

// With these limits no connection is refused.
const wideLimits = "connections = 60000\nconnections_per_client = 15000\nunauthenticated = 15000"

// Limits and penalties count by address, so each attack comes from one address and from
// many. The guesses come first, since their effects last longest.
var attacks = []attack{
	{"500 wrong passwords a second from one address", "", func(p *postern) string { return p.guessAll(500, oneAddress) }},
	{"500 wrong passwords a second from many addresses", "", func(p *postern) string { return p.guessAll(500, attacker) }},
	{"10,000 connections from one address", "", func(p *postern) string { return p.openAll(10000, oneAddress) }},
	{"10,000 connections from 500 addresses", "", func(p *postern) string { return p.openAll(10000, someAddresses) }},
	{"10,000 connections, all kept", wideLimits, func(p *postern) string { return p.openAll(10000, someAddresses) }},
	{"2,000 slow clients", "", func(p *postern) string { return p.runSlowClients(2000) }},
	{"2,000 slow clients, all kept", wideLimits, func(p *postern) string { return p.runSlowClients(2000) }},
}

// The password of the tests with bcrypt's usual cost, 10: a guess costs 60 ms of CPU time,
// so 500 a second are 15 times what two processors can do.
const (
	costlyHash  = "$2a$10$rJq4P6PpWRDi6s4Auvm0E.L6TmUC//V49VbUOC76L0MUuvbMxeAG6"
	costlyUsers = "alice:" + costlyHash + "\nbob:" + costlyHash + "\ncarol:" + costlyHash + "\n"
)

// The limits for a server under attack, and the number of its attempts.
const (
	attempts    = 3
	userLimit   = time.Second // 99 % of the messages of normal users take less
	memoryLimit = 512 << 10   // KiB
)

// The limits for what remains after an attack. The Go runtime keeps its data about
// goroutines and parts of the heap for reuse: 10,000 clients leave 15 MiB.
const (
	memoryLeft     = 32 << 10 // KiB
	goroutinesLeft = 8
	filesLeft      = 8
)

// Under attack normal users are served in time and the server stays small; afterwards it
// is as before. Each attack has another server, which is checked again while the next
// attacks run.
//
// No other test of this package runs at the same time. The limits grow if the machine is
// slow or busy, and an attack that exceeds them is repeated up to two times.
func TestOverload(t *testing.T) {
	peer(t, "files")
	calm := startOverloaded(t, attack{})
	calm.startUsers(t).stopUsers()
	usual := calm.goroutines(t)

	var past []recovery
	for _, s := range attacks {
		p := startOverloaded(t, s)
		a := recovery{attack: s, server: p, usual: usual}
		p.startUsers(t).stopUsers()
		a.memory, a.files = p.heap(t), p.files(t)
		t.Run(s.name, func(t *testing.T) { p.withstand(t, s) })
		past = append(past, a)
	}
	for _, a := range past {
		t.Run("after "+a.attack.name, a.check)
	}
}

func startOverloaded(t *testing.T, s attack) *postern {
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

// withstand runs an attack while normal users send messages.
func (p *postern) withstand(t *testing.T, s attack) {
	f, limit := p.underAttack(t, s)
	for n := 1; n < attempts && !f.good(limit); n++ {
		t.Log("again, in case the machine was the reason")
		f, limit = p.underAttack(t, s)
	}
	if !f.good(limit) {
		t.Errorf("normal users were delayed: %v", f)
	}
	peak := p.peakMemory(t)
	t.Logf("memory: %d KiB at most", peak)
	if peak >= memoryLimit {
		t.Errorf("the server used %d KiB of memory, want less than %d", peak, memoryLimit)
	}
}

// underAttack returns the statistics of normal users during an attack, and the limit for
// them on this machine.
func (p *postern) underAttack(t *testing.T, s attack) (userStats, time.Duration) {
	users := p.startUsers(t)
	begun := p.cpuTime(t)
	summary := s.run(p)
	f, ours, slow := users.stopUsers(), p.cpuTime(t).share(begun), slowness(t)
	t.Logf("attack: %s", summary)
	t.Logf("normal users: %v", f)
	t.Logf("the test had %.0f per cent of a machine that is %.1f times as slow as usual", 100*ours, slow)
	return f, time.Duration(float64(userLimit) * slow / ours)
}

// A recovery is a server after an attack.
type recovery struct {
	attack attack
	server *postern
	memory int            // KiB of heap and stacks before the attack
	files  int            // open before the attack
	usual  goroutineCount // of a server that was not attacked
}

func (a recovery) check(t *testing.T) {
	p := a.server
	// A login that is waiting for its penalty keeps its connection for half a minute.
	kit.Eventually(t, "connections to be closed", func() bool { return p.files(t) <= a.files+filesLeft })
	kit.Eventually(t, "memory to be released", func() bool { return p.heap(t) <= a.memory+memoryLeft })
	t.Logf("memory: %d KiB before, %d afterwards", a.memory, p.heap(t))
	if err := p.sendOne("alice", 0); err != nil {
		t.Errorf("a user after the attack: %v", err)
	}
	left := p.goroutines(t)
	t.Logf("goroutines: %d without an attack, %d afterwards", a.usual.total(), left.total())
	if left.total() > a.usual.total()+goroutinesLeft {
		t.Errorf("%d goroutines are left, want about %d: %v; without an attack: %v", left.total(), a.usual.total(), left, a.usual)
	}
}

func oneAddress(int) *net.TCPAddr { return attacker(0) }

func someAddresses(i int) *net.TCPAddr { return attacker(i % 500) }
