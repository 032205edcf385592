package process

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	heapInterval = time.Second // between two looks at the heap
	minReturn    = 4 << 20     // bytes; less is not worth the work of returning it

	// heapRoom is how many bytes the heap may grow between two collections, beside a
	// quarter of the live bytes. With less, a small server would collect dozens of
	// times a second during the handshakes of a few mail clients. With more, many
	// handshakes at once leave more holes between objects that stay, and those
	// cannot be returned to the system.
	heapRoom = 16 << 20

	// minHeap is the runtime's own lower bound for the size of a heap. It scales
	// this bound by GOGC, too.
	minHeap = 4 << 20
)

// A heapState describes the heap at one moment, in bytes.
type heapState struct {
	allocated uint64 // since the start of the process
	live      uint64 // reachable at the last collection
	held      uint64 // taken from the system, without holes between objects
}

func readHeap() heapState {
	samples := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"},
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(samples)
	value := func(i int) uint64 { return samples[i].Value.Uint64() }
	return heapState{allocated: value(0), live: value(1), held: value(2) + value(3)}
}

// shouldReturn reports whether free memory should be returned to the system: there
// is enough of it, and so little was allocated since before that it is not needed
// soon.
func (now heapState) shouldReturn(before heapState) bool {
	return now.allocated-before.allocated < now.live/8 && now.held > now.live+minReturn
}

// percent returns the value for GOGC: how much the heap may grow before the next
// collection.
func (now heapState) percent() int {
	return 25 + int(100*heapRoom/max(now.live, minHeap))
}

// ManageMemory lets the heap of a small server grow by at least heapRoom between
// collections, and returns memory that many handshakes at once have used when these
// clients are idle. The runtime alone collects only when the heap has grown by
// GOGC, or after two minutes, and keeps room for that growth. If GOGC is set in the
// environment, that value is kept. ManageMemory returns when ctx ends.
func ManageMemory(ctx context.Context) {
	ticker := time.NewTicker(heapInterval)
	defer ticker.Stop()
	_, fixed := os.LookupEnv("GOGC")
	collected := collections(ctx)
	percent := 100 // the default of the runtime
	for before := readHeap(); ; {
		select {
		case <-ctx.Done():
			return
		case <-collected:
			if now := readHeap().percent(); now != percent && !fixed {
				debug.SetGCPercent(now) // stops all goroutines for a moment
				percent = now
			}
		case <-ticker.C:
			now := readHeap()
			if now.shouldReturn(before) {
				debug.FreeOSMemory()
				now = readHeap()
			}
			before = now
		}
	}
}

// collections returns a channel that receives a value soon after each collection,
// until ctx ends. Waiting for the next tick would be too late: many clients that
// connect at once allocate ten times the live bytes within a second.
func collections(ctx context.Context) <-chan struct{} {
	c := make(chan struct{}, 1)
	var again func(struct{})
	again = func(struct{}) {
		select {
		case c <- struct{}{}:
		default:
		}
		if ctx.Err() == nil {
			runtime.AddCleanup(new(heapState), again, struct{}{}) // unreachable at once, so the next collection runs again
		}
	}
	again(struct{}{})
	return c
}
