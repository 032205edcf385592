package gate

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

var errTired = errors.New("tired of waiting")

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(2)
		var running, most atomic.Int32
		for i := range 20 {
			go func() {
				if err := g.Enter(t.Context(), i%2 == 0); err != nil {
					t.Error(err)
				}
				now := running.Add(1)
				most.Store(max(most.Load(), now))
				time.Sleep(time.Second)
				running.Add(-1)
				g.Leave()
			}()
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if most.Load() != 2 || running.Load() != 0 || g.free != 2 {
			t.Errorf("%d at once, %d still there, %d places", most.Load(), running.Load(), g.free)
		}
	})
}

func TestGateLetsTheKnownGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(1)
		if err := g.Enter(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		var order []string
		for _, who := range []string{"stranger 1", "stranger 2", "friend 1", "friend 2"} {
			go func() {
				if err := g.Enter(t.Context(), who[0] == 'f'); err != nil {
					t.Error(err)
				}
				order = append(order, who)
				g.Leave()
			}()
			synctest.Wait()
		}
		g.Leave()
		synctest.Wait()
		if got := fmt.Sprint(order); got != "[friend 1 friend 2 stranger 1 stranger 2]" {
			t.Errorf("order %v", got)
		}
	})
}

func TestGateForgetsWhoGaveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(1)
		if err := g.Enter(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errTired)
			defer cancel()
			go func() {
				if err := g.Enter(ctx, true); !errors.Is(err, errTired) {
					t.Errorf("got %v, want errTired", err)
				}
			}()
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		g.Leave()
		if g.free != 1 || g.lines[0].Len() != 0 {
			t.Errorf("%d places, %d in line", g.free, g.lines[0].Len())
		}
	})
}

// Turn and time-out at the same moment: no place may be lost.
func TestGateLosesNoPlace(t *testing.T) {
	g := New(1)
	done := make(chan struct{})
	for range 4 {
		go func() {
			defer func() { done <- struct{}{} }()
			for range 2000 {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Microsecond)
				if g.Enter(ctx, false) == nil {
					g.Leave()
				}
				cancel()
			}
		}()
	}
	for range 4 {
		<-done
	}
	if g.free != 1 || g.lines[1].Len() != 0 {
		t.Errorf("%d places, %d in line", g.free, g.lines[1].Len())
	}
}

// BenchmarkGate is a caller who does not have to wait.
func BenchmarkGate(b *testing.B) {
	g, ctx := New(1), b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if err := g.Enter(ctx, false); err != nil {
			b.Fatal(err)
		}
		g.Leave()
	}
}

// BenchmarkGateCrowd has more callers than places.
func BenchmarkGateCrowd(b *testing.B) {
	g := New(1)
	b.SetParallelism(8)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := g.Enter(context.Background(), false); err != nil {
				b.Error(err)
				return
			}
			g.Leave()
		}
	})
}
