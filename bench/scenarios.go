package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A scenario is one kind of work.
type scenario struct {
	name string
	what string
	unit string
	bare bool // servers that do the handshake only take part
	warm bool // it repeats logins: variants take part
	run  func(*trial) (measure, error)

	alone bool // one client: the summary has its latency, too
	once  bool // one round, since it is long and steady
}

const perMessage = "CPU µs/message"

var scenarios = []scenario{
	{name: "S1", what: "connect, STARTTLS, AUTH (bcrypt cost 10), one message of 2 KiB, QUIT; 16 at a time",
		unit: perMessage, bare: true, warm: true,
		run: func(t *trial) (measure, error) { return t.mailClients(16, slowUser) }},
	{name: "S1a", what: "the same with bcrypt cost 4, one client alone; p50 and p99 are from dialling to 250",
		unit: perMessage, warm: true, alone: true,
		run: func(t *trial) (measure, error) { return t.mailClients(1, fastUser) }},
	{name: "S1c", what: "as S1 with bcrypt cost 4, each user for the first time; 16 at a time",
		unit: perMessage, run: (*trial).firstTime},
	{name: "S2", what: "sessions of 100 messages of 2 KiB; 16 at a time",
		unit: perMessage, run: func(t *trial) (measure, error) { return t.sessions(16, 100, 2<<10) }},
	{name: "S3", what: "sessions of 10 messages of 1 MiB; 8 at a time",
		unit: perMessage, run: func(t *trial) (measure, error) { return t.sessions(8, 10, 1<<20) }},
	{name: "S4", what: "clients that have logged in and are idle", unit: "KiB/client",
		once: true, run: (*trial).idle},
	{name: "S5", what: "connect, STARTTLS, AUTH (bcrypt cost 10), QUIT; 16 at a time",
		unit: "CPU µs/login", bare: true, warm: true,
		run: func(t *trial) (measure, error) { return t.logins(16, slowUser) }},
	{name: "S6", what: "clients that upload 1 MiB at 64 KiB/s each", unit: "MiB at most",
		once: true, run: (*trial).uploads},
}

func scenarioNames() []string {
	var names []string
	for _, s := range scenarios {
		names = append(names, s.name)
	}
	return names
}

func (sc scenario) fits(s server) bool { return (sc.bare || !s.bare) && (sc.warm || !s.variant) }

// A trial is one scenario on one server.
type trial struct {
	ctx    context.Context // when it ends, the server is killed
	site   *site
	cgroup *cgroup
	target *target
	load   load
}

// handshakes drives a bare server: each session is only a handshake.
func (t *trial) handshakes(n int) (measure, error) {
	return t.drive(n, func(count *tally) (bool, error) {
		begun := time.Now()
		err := t.target.handshake()
		count.add(time.Since(begun))
		return err == nil, err
	})
}

func (t *trial) mailClients(n int, user string) (measure, error) {
	if t.target.bare {
		return t.handshakes(n)
	}
	message := letter(2 << 10)
	if err := t.submitOnce(user, message, nil); err != nil { // the user has logged in before
		return measure{}, err
	}
	return t.drive(n, func(count *tally) (bool, error) {
		err := t.submitOnce(user, message, count)
		return err == nil, err
	})
}

// submitOnce submits one message in a new session. count, if not nil,
// gets the time from dialling to 250.
func (t *trial) submitOnce(user string, message []byte, count *tally) error {
	begun := time.Now()
	c, err := t.target.login(user)
	if err != nil {
		return err
	}
	if err := c.send(message); err != nil {
		return errors.Join(err, c.conn.Close())
	}
	if count != nil {
		count.add(time.Since(begun))
	}
	return c.quit()
}

func (t *trial) firstTime() (measure, error) {
	var next atomic.Int64
	message := letter(2 << 10)
	return t.drive(16, func(count *tally) (bool, error) {
		i := int(next.Add(1)) - 1
		if i >= singles {
			return false, nil
		}
		err := t.submitOnce(singleUser(i), message, count)
		return err == nil, err
	})
}

// sessions drives n clients whose sessions have several messages. The time of a
// message is from MAIL to 250.
func (t *trial) sessions(n, messages, size int) (measure, error) {
	message := letter(size)
	return t.drive(n, func(count *tally) (bool, error) {
		c, err := t.target.login(fastUser)
		if err != nil {
			return false, err
		}
		for i := 0; i < messages && (i == 0 || count.more()); i++ {
			begun := time.Now()
			if err := c.send(message); err != nil {
				return false, errors.Join(err, c.conn.Close())
			}
			count.add(time.Since(begun))
		}
		return true, c.quit()
	})
}

func (t *trial) logins(n int, user string) (measure, error) {
	if t.target.bare {
		return t.handshakes(n)
	}
	login := func(count *tally) (bool, error) {
		begun := time.Now()
		c, err := t.target.login(user)
		if err != nil {
			return false, err
		}
		count.add(time.Since(begun))
		return true, c.quit()
	}
	if _, err := login(&tally{}); err != nil {
		return measure{}, err
	}
	return t.drive(n, login)
}

// idle measures the memory for clients that have logged in and are idle, after the time of
// one round.
func (t *trial) idle() (measure, error) {
	before, err := t.cgroup.pss()
	if err != nil {
		return measure{}, err
	}
	held, err := t.loginMany()
	defer closeAll(held)
	if err != nil {
		return measure{}, err
	}
	if err := pause(t.ctx, t.load.time); err != nil {
		return measure{}, err
	}
	after, err := t.cgroup.pss()
	return measure{
		figure: float64(after-before) / float64(len(held)),
		remark: fmt.Sprintf("%d clients, %d KiB in all", len(held), after),
	}, err
}

// loginMany logs in the clients of S4 and S6, 16 at a time.
func (t *trial) loginMany() ([]*client, error) {
	var (
		mu    sync.Mutex
		all   sync.WaitGroup
		held  []*client
		errs  []error
		slots = make(chan struct{}, 16)
	)
	failed := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(errs) > 0
	}
	for range t.load.many {
		slots <- struct{}{}
		if failed() {
			break
		}
		all.Go(func() {
			defer func() { <-slots }()
			c, err := t.target.login(fastUser)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				return
			}
			held = append(held, c)
		})
	}
	all.Wait()
	return held, errors.Join(errs...)
}

func closeAll(clients []*client) {
	for _, c := range clients {
		_ = c.conn.Close()
	}
}

// uploads makes all clients send slowly, and measures the peak memory, the connections to
// the next hop, and the clients without a 250.
func (t *trial) uploads() (measure, error) {
	held, err := t.loginMany()
	defer closeAll(held)
	if err != nil {
		return measure{}, err
	}
	stop := make(chan struct{})
	peaks := t.watch(stop)
	count := &tally{until: time.Now().Add(patience)}
	var all sync.WaitGroup
	message, begun := letter(1<<20), time.Now()
	for i, c := range held {
		all.Go(func() {
			if pause(t.ctx, time.Duration(i)*uploadTime/time.Duration(len(held))) != nil {
				return
			}
			start := time.Now()
			if err := c.upload(message); err != nil {
				count.fail(err)
				return
			}
			count.add(time.Since(start))
		})
	}
	all.Wait()
	elapsed := time.Since(begun)
	close(stop)
	most := <-peaks
	m, err := count.measure(0, elapsed)
	m.figure = float64(most.pss) / 1024
	m.remark = fmt.Sprintf("%d connections to the next hop at most, %d of %d failed", most.hops, len(held)-len(count.took), len(held))
	if count.first != nil {
		m.remark += fmt.Sprintf(", the first one: %v", count.first)
	}
	return m, err
}

// uploadTime is the time of one upload at 64 KiB/s. The clients start evenly within that
// time, so that all are sending when the last one starts.
const uploadTime = 16 * time.Second

// upload sends 1 MiB, 16 KiB every quarter of a second.
func (c *client) upload(message []byte) error {
	const pause, block = 250 * time.Millisecond, 16 << 10
	_ = c.conn.SetDeadline(time.Now().Add(patience))
	if err := c.begin(); err != nil {
		return err
	}
	for rest := message; len(rest) > 0; {
		n := min(block, len(rest))
		_ = c.conn.SetDeadline(time.Now().Add(patience))
		if _, err := c.conn.Write(rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
		time.Sleep(pause)
	}
	return c.command("250", ".")
}

type peak struct{ pss, hops int }

// watch records the peaks of memory and of connections to the next hop until stop is
// closed.
func (t *trial) watch(stop <-chan struct{}) <-chan peak {
	result := make(chan peak, 1)
	go func() {
		var most peak
		for {
			select {
			case <-stop:
				result <- most
				return
			case <-time.After(500 * time.Millisecond):
			}
			pss, _ := t.cgroup.pss()
			most = peak{max(most.pss, pss), max(most.hops, connectionsTo(t.site.sink))}
		}
	}()
	return result
}

// connectionsTo counts the established connections whose remote end is addr.
func connectionsTo(addr string) int {
	text, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return 0
	}
	var p int
	_, _ = fmt.Sscan(port(addr), &p)
	return strings.Count(string(text), fmt.Sprintf(" 0100007F:%04X 01 ", p))
}
