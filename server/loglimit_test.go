package server

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A limitedLog holds the lines that a limit has passed.
type limitedLog struct {
	limit *logLimit
	lines []string
}

func (l *limitedLog) event(name, client string) {
	l.limit.log(name, netip.MustParseAddr(client), func(count int) {
		l.lines = append(l.lines, fmt.Sprint(name, " ", client, " ", count))
	})
}

func (l *limitedLog) want(t *testing.T, lines ...string) {
	t.Helper()
	if !slices.Equal(l.lines, lines) {
		t.Errorf("logged %q, want %q", l.lines, lines)
	}
	l.lines = nil
}

func TestLogLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &limitedLog{limit: newLogLimit()}
		l.event("refused", "192.0.2.1")
		l.want(t, "refused 192.0.2.1 1")
		for range 50 {
			l.event("refused", "192.0.2.1")
		}
		l.want(t)
		l.event("refused", "192.0.2.2") // each address has its own line
		l.event("delayed", "192.0.2.1") // and each event
		l.want(t, "refused 192.0.2.2 1", "delayed 192.0.2.1 1")

		time.Sleep(lineEvery)
		l.event("refused", "192.0.2.1") // counted in the minute that begins
		l.want(t, "refused 192.0.2.1 50")
		time.Sleep(lineEvery)
		l.limit.sweep()
		l.want(t, "refused 192.0.2.1 1")
		time.Sleep(lineEvery)
		l.limit.sweep()
		l.want(t)
		if n := len(l.limit.known) + l.limit.order.Len(); n != 0 {
			t.Errorf("%d addresses are not forgotten", n)
		}
		l.event("refused", "192.0.2.1")
		l.want(t, "refused 192.0.2.1 1")
	})
}

// TestLogLimitOfSubscribers: the addresses of an IPv6 /64 count as one.
func TestLogLimitOfSubscribers(t *testing.T) {
	l := &limitedLog{limit: newLogLimit()}
	l.event("refused", "2001:db8::1")
	l.event("refused", "2001:db8::2")
	l.event("refused", "2001:db8:0:1::1")
	l.want(t, "refused 2001:db8::1 1", "refused 2001:db8:0:1::1 1")
}

// TestLogLimitIsBounded: the table and the log are bounded for any number of addresses.
func TestLogLimitIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &limitedLog{limit: newLogLimit()}
		for i := range 3 * limitedAddresses {
			l.event("refused", netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}).String())
		}
		if n := len(l.limit.known); n != limitedAddresses+1 || l.limit.order.Len() != n {
			t.Errorf("%d addresses in memory", n)
		}
		if n := len(l.lines); n != limitedAddresses+1 {
			t.Errorf("%d lines", n)
		}
		l.lines = nil
		time.Sleep(lineEvery)
		l.limit.sweep()
		l.want(t, fmt.Sprint("refused 10.0.47.255 ", 2*limitedAddresses-1))
		if n := len(l.limit.known); n != 1 {
			t.Errorf("%d addresses in memory afterwards", n)
		}
	})
}

func TestNoLogLimit(t *testing.T) {
	l := new(limitedLog)
	l.event("refused", "192.0.2.1")
	l.event("refused", "192.0.2.1")
	l.limit.sweep()
	l.want(t, "refused 192.0.2.1 1", "refused 192.0.2.1 1")
}

// TestLogLimitLosesNothing: each of many concurrent events is counted once.
func TestLogLimitLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := newLogLimit()
		var counted atomic.Int64
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for range 100 {
					limit.log("refused", netip.MustParseAddr("192.0.2.1"), func(count int) { counted.Add(int64(count)) })
					time.Sleep(time.Second)
				}
			})
		}
		all.Wait()
		time.Sleep(lineEvery)
		limit.sweep()
		if n := counted.Load(); n != 800 {
			t.Errorf("%d of 800 events were counted", n)
		}
	})
}

// TestLogLimitOfServer: what was counted is logged when any client disconnects, also
// after a reload.
func TestLogLimitOfServer(t *testing.T) {
	d := newTestServer(t, defaultSettings())
	client := netip.MustParseAddr("192.0.2.1")
	synctest.Test(t, func(t *testing.T) {
		s, err := New(d.parts)
		if err != nil {
			t.Fatal(err)
		}
		for range 4 {
			s.events.ConnectionRefused("submission", client, "too many connections")
		}
		if err := s.Reload(d.parts); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lineEvery)
		s.events.ForSession("id", "submission", client).Disconnected(0, 0)
	})
	if n := d.log.Count(`msg="connection refused"*client=192.0.2.1*count=3`); n != 1 {
		t.Errorf("%d lines for the counted events", n)
	}
}
