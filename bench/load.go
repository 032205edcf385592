package main

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// load is what the command line sets about the clients.
type load struct {
	time   time.Duration // of a round
	many   int           // clients of S4 and S6
	hybrid bool          // they offer X25519MLKEM768
	resume bool          // they resume their TLS session
}

// A measure is the result of one round.
type measure struct {
	figure   float64 // the scenario's result, in its unit
	rate     float64 // messages a second
	p50, p99 time.Duration
	remark   string
}

func (m measure) String() string {
	return fmt.Sprintf("%10.1f  %7.1f/s  p50 %v  p99 %v  %s", m.figure, m.rate,
		m.p50.Round(10*time.Microsecond), m.p99.Round(10*time.Microsecond), m.remark)
}

// A tally counts the messages of a round.
type tally struct {
	mu    sync.Mutex
	took  []time.Duration
	first error
	until time.Time
}

// more reports whether to start another session.
func (t *tally) more() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.first == nil && time.Now().Before(t.until)
}

func (t *tally) add(took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.took = append(t.took, took)
}

func (t *tally) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.first == nil {
		t.first = err
	}
}

// drive runs n clients, each with one session after the other, until the time of the load
// is over or a session returns more = false. It returns the CPU time of the server for
// each message, in microseconds.
func (t *trial) drive(n int, session func(*tally) (more bool, err error)) (measure, error) {
	before, err := t.cgroup.settled(t.ctx)
	if err != nil {
		return measure{}, err
	}
	begun := time.Now()
	count := &tally{until: begun.Add(t.load.time)}
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			for count.more() {
				more, err := session(count)
				if err != nil {
					count.fail(err)
				}
				if !more {
					return
				}
			}
		})
	}
	all.Wait()
	elapsed := time.Since(begun)
	after, err := t.cgroup.settled(t.ctx)
	if err == nil {
		err = count.first
	}
	if err != nil {
		return measure{}, err
	}
	return count.measure(after-before, elapsed)
}

func (t *tally) measure(cpu, elapsed time.Duration) (measure, error) {
	n := len(t.took)
	if n == 0 {
		return measure{}, errors.New("no message was accepted")
	}
	slices.Sort(t.took)
	return measure{
		figure: float64(cpu.Microseconds()) / float64(n),
		rate:   float64(n) / elapsed.Seconds(),
		p50:    t.took[n/2],
		p99:    t.took[n*99/100],
	}, nil
}
