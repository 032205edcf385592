package semaphore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"postern/test/kit"
)

func TestMain(m *testing.M) { os.Exit(kit.Main(m)) }

var errGaveUp = errors.New("gave up waiting")

func TestSlotsAreNeverExceeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(2)
		var running, most atomic.Int32
		for i := range 20 {
			go func() {
				if err := s.Acquire(t.Context(), Turn{Known: i%2 == 0}); err != nil {
					t.Error(err)
				}
				now := running.Add(1)
				most.Store(max(most.Load(), now))
				time.Sleep(time.Second)
				running.Add(-1)
				s.Release(Turn{Known: i%2 == 0})
			}()
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if most.Load() != 2 || running.Load() != 0 || s.free != 2 {
			t.Errorf("%d at once, %d still running, %d slots free", most.Load(), running.Load(), s.free)
		}
	})
}

func TestFirstQueueIsServedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(1)
		if err := s.Acquire(t.Context(), Turn{}); err != nil {
			t.Fatal(err)
		}
		var order []string
		for _, name := range []string{"unknown 1", "unknown 2", "known 1", "known 2"} {
			go func() {
				if err := s.Acquire(t.Context(), Turn{Known: name[0] == 'k'}); err != nil {
					t.Error(err)
				}
				order = append(order, name)
				s.Release(Turn{})
			}()
			synctest.Wait()
		}
		s.Release(Turn{})
		synctest.Wait()
		if got := fmt.Sprint(order); got != "[known 1 known 2 unknown 1 unknown 2]" {
			t.Errorf("order %v", got)
		}
	})
}

func TestWaitersThatGiveUpLeaveTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(1)
		if err := s.Acquire(t.Context(), Turn{}); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errGaveUp)
			defer cancel()
			go func() {
				if err := s.Acquire(ctx, Turn{Known: true}); !errors.Is(err, errGaveUp) {
					t.Errorf("got %v, want errGaveUp", err)
				}
			}()
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		s.Release(Turn{})
		if s.free != 1 || !s.queue.empty() {
			t.Errorf("%d slots free, queue %+v", s.free, s.queue)
		}
	})
}

// A slot that is granted at the moment of a timeout must not be lost.
func TestNoSlotIsLostAtATimeout(t *testing.T) {
	s := New(1)
	done := make(chan struct{})
	for range 4 {
		go func() {
			defer func() { done <- struct{}{} }()
			for range 2000 {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Microsecond)
				if s.Acquire(ctx, Turn{}) == nil {
					s.Release(Turn{})
				}
				cancel()
			}
		}()
	}
	for range 4 {
		<-done
	}
	if s.free != 1 || !s.queue.empty() {
		t.Errorf("%d slots free, queue %+v", s.free, s.queue)
	}
}

// BenchmarkAcquire measures a caller that does not wait.
func BenchmarkAcquire(b *testing.B) {
	s, ctx := New(1), b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Acquire(ctx, Turn{}); err != nil {
			b.Fatal(err)
		}
		s.Release(Turn{})
	}
}

// BenchmarkAcquireContended has more callers than slots.
func BenchmarkAcquireContended(b *testing.B) {
	s := New(1)
	b.SetParallelism(8)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := s.Acquire(context.Background(), Turn{}); err != nil {
				b.Error(err)
				return
			}
			s.Release(Turn{})
		}
	})
}
