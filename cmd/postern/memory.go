package main

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	heapLooks = time.Second // how often the heap is looked at
	calmWaste = 4 << 20     // what is not worth the work of giving it back

	// roomToWork is what a heap may hold beside what is alive before the next
	// collection, and a quarter of what is alive. With less, a small server would
	// collect dozens of times a second for the handshakes of some mail clients. With
	// more, the handshakes of a crowd leave more holes between what stays, which
	// nobody can give back.
	roomToWork = 16 << 20

	// smallestHeap is the runtime's own, to which it applies the percentage, too.
	smallestHeap = 4 << 20
)

// A heapLook is the state of the heap at one moment, in bytes.
type heapLook struct {
	allocated uint64 // since the start of the process
	live      uint64 // reachable at the last collection
	held      uint64 // of the system's memory, but for holes between objects
}

func lookAtHeap() heapLook {
	samples := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"},
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(samples)
	value := func(i int) uint64 { return samples[i].Value.Uint64() }
	return heapLook{allocated: value(0), live: value(1), held: value(2) + value(3)}
}

// calm reports whether so little has been allocated since before that what lies
// around will not be wanted soon, and whether there is enough of it.
func (now heapLook) calm(before heapLook) bool {
	return now.allocated-before.allocated < now.live/8 && now.held > now.live+calmWaste
}

// percent is how much the heap may grow before the next collection (GOGC).
func (now heapLook) percent() int {
	return 25 + int(100*roomToWork/max(now.live, smallestHeap))
}

// keepMemory lets the heap of a small server have some room, and returns to the
// system what the handshakes of a crowd have left behind, once the crowd is idle.
// The collector by itself comes only when as much has been allocated again as it
// may, or after two minutes, and keeps room for that. It returns when ctx ends.
// GOGC in the environment has the last word.
func keepMemory(ctx context.Context) {
	ticker := time.NewTicker(heapLooks)
	defer ticker.Stop()
	_, chosen := os.LookupEnv("GOGC")
	collected := collections(ctx)
	percent := 100 // the runtime's own
	for before := lookAtHeap(); ; {
		select {
		case <-ctx.Done():
			return
		case <-collected:
			if now := lookAtHeap().percent(); now != percent && !chosen {
				debug.SetGCPercent(now) // stops everybody for a moment
				percent = now
			}
		case <-ticker.C:
			now := lookAtHeap()
			if now.calm(before) {
				debug.FreeOSMemory()
				now = lookAtHeap()
			}
			before = now
		}
	}
}

// collections tells of each collection, soon after it, until ctx ends: a crowd
// that comes at once makes ten times of what was alive in a second.
func collections(ctx context.Context) <-chan struct{} {
	c := make(chan struct{}, 1)
	var again func(struct{})
	again = func(struct{}) {
		select {
		case c <- struct{}{}:
		default:
		}
		if ctx.Err() == nil {
			runtime.AddCleanup(new(heapLook), again, struct{}{}) // garbage from the start
		}
	}
	again(struct{}{})
	return c
}
