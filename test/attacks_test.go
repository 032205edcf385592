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

// attacker returns a different address for each n, which no normal user has.
func attacker(n int) *net.TCPAddr {
	return &net.TCPAddr{IP: net.IPv4(127, 2+byte(n/62500), byte(n/250%250), byte(1+n%250))}
}

// A tally counts events by name.
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

// attackTime is the length of an attack. atATime is the number of connections that it
// opens, or secures with TLS, at a time: with more, the clients, including the normal
// users, would delay each other.
const (
	attackTime = 5 * time.Second
	atATime    = 64
)

// openAll opens connections as fast as possible and keeps them for two seconds.
func (p *postern) openAll(n int, from func(i int) *net.TCPAddr) string {
	const keep = 2 * time.Second
	var count tally
	var next atomic.Int64
	held := make([]net.Conn, n)
	begun := time.Now()
	_ = inBackground(atATime, func(int) error {
		for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
			c, what := p.dialAndRead(from(i))
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

// dialAndRead connects and reads the greeting. The connection is nil if it was refused.
func (p *postern) dialAndRead(from *net.TCPAddr) (c net.Conn, what string) {
	c, err := dialFrom(from, p.addr(startTLS))
	if err != nil {
		return nil, "not connected"
	}
	var code [3]byte
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.ReadFull(c, code[:]); err != nil || string(code[:]) != "220" {
		c.Close()
		return nil, "refused"
	}
	return c, "greeted"
}

// runSlowClients runs n clients, each slow in one of the ways below. A client whose
// connection is closed connects again.
func (p *postern) runSlowClients(n int) string {
	var count tally
	end := make(chan struct{})
	time.AfterFunc(attackTime, func() { close(end) })
	slots := make(chan struct{}, atATime)
	_ = inBackground(n, func(i int) error {
		for {
			count.add(p.runSlowClient(i, slots, end))
			select {
			case <-end:
				return nil
			case <-time.After(time.Second):
			}
		}
	})()
	return count.String()
}

// runSlowClient keeps one connection for as long as the server allows.
func (p *postern) runSlowClient(i int, slots chan struct{}, end <-chan struct{}) (what string) {
	s := slowClients[i%len(slowClients)]
	slots <- struct{}{}
	c, slow, err := s.begin(p, attacker(i))
	<-slots
	if err != nil {
		return "refused"
	}
	defer c.Close()
	for {
		select {
		case <-end:
			return "kept until the end"
		case <-time.After(time.Second):
		}
		if s.send == "" {
			continue
		}
		if _, err := io.WriteString(slow, s.send); err != nil {
			return "closed by the server"
		}
	}
}

// A slowClient is a way to be slow.
type slowClient struct {
	mode    tlsMode
	prepare func(net.Conn) (net.Conn, error)
	send    string // once a second
}

// begin returns the connection, and what is written to slowly.
func (d slowClient) begin(p *postern, from *net.TCPAddr) (c, slow net.Conn, err error) {
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

var slowClients = []slowClient{
	{mode: implicitTLS}, // no handshake
	{mode: implicitTLS, prepare: halfHello, send: "\x00"}, // a handshake without end
	{mode: startTLS, send: "E"},                           // a command without end
	{mode: startTLS, prepare: secured("AUTH PLAIN"), send: "A"},
	{mode: startTLS, prepare: secured("AUTH LOGIN"), send: "A"},
}

// halfHello sends only the header of a TLS record with a ClientHello.
func halfHello(c net.Conn) (net.Conn, error) {
	_, err := c.Write([]byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3})
	return c, err
}

// secured starts TLS and sends a command that is not refused.
func secured(line string) func(net.Conn) (net.Conn, error) {
	return func(c net.Conn) (net.Conn, error) {
		s := newSubmitter(c)
		if err := s.hello(startTLS, uncheckedTLS); err != nil {
			return nil, err
		}
		return s.Conn, s.wantAll(line)
	}
}

// uncheckedTLS is for clients that do not check the certificate.
var uncheckedTLS = &tls.Config{InsecureSkipVerify: true}

// guessAll tries wrong passwords at a constant rate, however long the replies take.
func (p *postern) guessAll(perSecond int, from func(i int) *net.TCPAddr) string {
	var count tally
	var all sync.WaitGroup
	pace := time.NewTicker(time.Second / time.Duration(perSecond))
	defer pace.Stop()
	slots := make(chan struct{}, atATime)
	end := time.Now().Add(attackTime)
	n := 0
	for ; time.Now().Before(end); n++ {
		<-pace.C
		slots <- struct{}{}
		g := guess{user: fmt.Sprintf("user%d", n), password: fmt.Sprintf("guess-%d", n), end: end}
		if n%2 == 0 {
			g.user = "alice"
		}
		address := from(n)
		all.Go(func() { count.add(g.try(p, address, func() { <-slots })) })
	}
	all.Wait()
	return fmt.Sprintf("%d guesses: %v", n, &count)
}

// A guess is a wrong password. The connection is closed at end.
type guess struct {
	user, password string
	end            time.Time
}

// try makes the guess on a new connection. It calls connected when the connection is
// secured or has failed, and returns the result.
func (g guess) try(p *postern, from *net.TCPAddr, connected func()) string {
	c, err := dialFrom(from, p.addr(startTLS))
	if err != nil {
		connected()
		return "not connected"
	}
	defer c.Close()
	defer time.AfterFunc(time.Until(g.end), func() { c.Close() }).Stop()
	s := newSubmitter(c)
	err = s.hello(startTLS, uncheckedTLS)
	connected()
	if err != nil {
		return "refused"
	}
	r, err := s.Ask("AUTH PLAIN " + kit.Plain(g.user, g.password))
	if err != nil {
		return "without a reply"
	}
	return fmt.Sprintf("got %d", r.Code)
}
