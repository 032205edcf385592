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
				if err := s.Acquire(t.Context(), i%2 == 0); err != nil {
					t.Error(err)
				}
				now := running.Add(1)
				most.Store(max(most.Load(), now))
				time.Sleep(time.Second)
				running.Add(-1)
				s.Release()
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
		if err := s.Acquire(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		var order []string
		for _, name := range []string{"unknown 1", "unknown 2", "known 1", "known 2"} {
			go func() {
				if err := s.Acquire(t.Context(), name[0] == 'k'); err != nil {
					t.Error(err)
				}
				order = append(order, name)
				s.Release()
			}()
			synctest.Wait()
		}
		s.Release()
		synctest.Wait()
		if got := fmt.Sprint(order); got != "[known 1 known 2 unknown 1 unknown 2]" {
			t.Errorf("order %v", got)
		}
	})
}

func TestWaitersThatGiveUpLeaveTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(1)
		if err := s.Acquire(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errGaveUp)
			defer cancel()
			go func() {
				if err := s.Acquire(ctx, true); !errors.Is(err, errGaveUp) {
					t.Errorf("got %v, want errGaveUp", err)
				}
			}()
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		s.Release()
		if s.free != 1 || s.queues[0].Len() != 0 {
			t.Errorf("%d slots free, %d waiting", s.free, s.queues[0].Len())
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
				if s.Acquire(ctx, false) == nil {
					s.Release()
				}
				cancel()
			}
		}()
	}
	for range 4 {
		<-done
	}
	if s.free != 1 || s.queues[1].Len() != 0 {
		t.Errorf("%d slots free, %d waiting", s.free, s.queues[1].Len())
	}
}

// BenchmarkAcquire measures a caller that does not wait.
func BenchmarkAcquire(b *testing.B) {
	s, ctx := New(1), b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Acquire(ctx, false); err != nil {
			b.Fatal(err)
		}
		s.Release()
	}
}

// BenchmarkAcquireContended has more callers than slots.
func BenchmarkAcquireContended(b *testing.B) {
	s := New(1)
	b.SetParallelism(8)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := s.Acquire(context.Background(), false); err != nil {
				b.Error(err)
				return
			}
			s.Release()
		}
	})
}
