package test

import (
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"postern/test/kit"
)

// attacker gives each n an address that no honest user has.
func attacker(n int) *net.TCPAddr {
	return &net.TCPAddr{IP: net.IPv4(127, 2+byte(n/62500), byte(n/250%250), byte(1+n%250))}
}

// A tally counts what happened, by name.
type tally struct {
	mu     sync.Mutex
	counts map[string]int
}

func (c *tally) add(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts == nil {
		c.counts = map[string]int{}
	}
	c.counts[what]++
}

func (c *tally) String() string {
	var all []string
	for _, what := range slices.Sorted(maps.Keys(c.counts)) {
		all = append(all, fmt.Sprintf("%d %s", c.counts[what], what))
	}
	return strings.Join(all, ", ")
}

// storming is how long a storm rages, and stormers how many connections it opens,
// or brings to TLS, at a time: with more, it would be the clients, the honest
// ones among them, who have to wait for each other.
const (
	storming = 5 * time.Second
	stormers = 64
)

// openAll opens connections as fast as it can and keeps them for a while.
func (p *postern) openAll(n int, from func(i int) *net.TCPAddr) string {
	const keep = 2 * time.Second
	var count tally
	var next atomic.Int64
	held := make([]net.Conn, n)
	begun := time.Now()
	_ = inBackground(stormers, func(int) error {
		for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
			c, what := p.knock(from(i))
			held[i] = c
			count.add(what)
		}
		return nil
	})()
	took := time.Since(begun)
	time.Sleep(keep)
	for _, c := range held {
		if c != nil {
			c.Close()
		}
	}
	return fmt.Sprintf("%v in %v", &count, took.Round(time.Millisecond))
}

// knock connects and waits for the first word. The connection is nil if it was refused.
func (p *postern) knock(from *net.TCPAddr) (c net.Conn, what string) {
	c, err := dialFrom(from, p.addr(startTLS))
	if err != nil {
		return nil, "not connected"
	}
	var code [3]byte
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.ReadFull(c, code[:]); err != nil || string(code[:]) != "220" {
		c.Close()
		return nil, "turned away"
	}
	return c, "greeted"
}

// dribbleAll has n clients hold the server up, each in one of the ways below.
// Whoever is thrown out comes back.
func (p *postern) dribbleAll(n int) string {
	var count tally
	end := make(chan struct{})
	time.AfterFunc(storming, func() { close(end) })
	gate := make(chan struct{}, stormers)
	_ = inBackground(n, func(i int) error {
		for {
			count.add(p.dribble(i, gate, end))
			select {
			case <-end:
				return nil
			case <-time.After(time.Second):
			}
		}
	})()
	return count.String()
}

// dribble holds one connection for as long as the server lets it.
func (p *postern) dribble(i int, gate chan struct{}, end <-chan struct{}) (what string) {
	way := dribblers[i%len(dribblers)]
	gate <- struct{}{}
	c, slow, err := way.begin(p, attacker(i))
	<-gate
	if err != nil {
		return "turned away"
	}
	defer c.Close()
	for {
		select {
		case <-end:
			return "held until the end"
		case <-time.After(time.Second):
		}
		if way.say == "" {
			continue
		}
		if _, err := io.WriteString(slow, way.say); err != nil {
			return "thrown out"
		}
	}
}

// A dribbler is a way to be slow.
type dribbler struct {
	mode    tlsMode
	prepare func(net.Conn) (net.Conn, error)
	say     string // once a second
}

// begin returns the connection, and what is said slowly over.
func (d dribbler) begin(p *postern, from *net.TCPAddr) (c, slow net.Conn, err error) {
	c, err = dialFrom(from, p.addr(d.mode))
	if err != nil {
		return nil, nil, err
	}
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	slow = c
	if d.prepare != nil {
		slow, err = d.prepare(c)
	}
	if err != nil {
		c.Close()
	}
	return c, slow, err
}

var dribblers = []dribbler{
	{mode: implicitTLS}, // silence in place of a handshake
	{mode: implicitTLS, prepare: halfHello, say: "\x00"}, // a handshake that does not end
	{mode: startTLS, say: "E"},                           // a command that does not end
	{mode: startTLS, prepare: secured("AUTH PLAIN"), say: "A"},
	{mode: startTLS, prepare: secured("AUTH LOGIN"), say: "A"},
}

// halfHello sends the header of a TLS record with a ClientHello, and no more.
func halfHello(c net.Conn) (net.Conn, error) {
	_, err := c.Write([]byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3})
	return c, err
}

// secured goes on to TLS and then says something that is not refused.
func secured(line string) func(net.Conn) (net.Conn, error) {
	return func(c net.Conn) (net.Conn, error) {
		s := newSubmitter(c)
		if err := s.hello(startTLS, carelessTLS); err != nil {
			return nil, err
		}
		return s.Conn, s.wantAll(line)
	}
}

// carelessTLS is that of clients who do not care whom they talk to.
var carelessTLS = &tls.Config{InsecureSkipVerify: true}

// guessAll tries wrong passwords at a steady pace, however long the answers take.
func (p *postern) guessAll(perSecond int, from func(i int) *net.TCPAddr) string {
	var count tally
	var all sync.WaitGroup
	pace := time.NewTicker(time.Second / time.Duration(perSecond))
	defer pace.Stop()
	gate := make(chan struct{}, stormers)
	end := time.Now().Add(storming)
	n := 0
	for ; time.Now().Before(end); n++ {
		<-pace.C
		gate <- struct{}{}
		g := guess{user: fmt.Sprintf("user%d", n), password: fmt.Sprintf("guess-%d", n), end: end}
		if n%2 == 0 {
			g.user = "alice"
		}
		address := from(n)
		all.Go(func() { count.add(g.try(p, address, func() { <-gate })) })
	}
	all.Wait()
	return fmt.Sprintf("%d guesses: %v", n, &count)
}

// A guess is a wrong password. Who guesses has no patience beyond the end.
type guess struct {
	user, password string
	end            time.Time
}

// try makes the guess on a connection of its own. It tells when that has come
// about, or has failed to, and returns how the guess was answered.
func (g guess) try(p *postern, from *net.TCPAddr, connected func()) string {
	c, err := dialFrom(from, p.addr(startTLS))
	if err != nil {
		connected()
		return "not connected"
	}
	defer c.Close()
	defer time.AfterFunc(time.Until(g.end), func() { c.Close() }).Stop()
	s := newSubmitter(c)
	err = s.hello(startTLS, carelessTLS)
	connected()
	if err != nil {
		return "turned away"
	}
	r, err := s.Ask("AUTH PLAIN " + kit.Plain(g.user, g.password))
	if err != nil {
		return "without an answer"
	}
	return fmt.Sprintf("got %d", r.Code)
}
