package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	heapLooks = time.Second // how often the heap is looked at
	calmWaste = 4 << 20     // what is not worth the work of giving it back

	// roomToWork is what a heap may hold beside what is alive, if that is less: a
	// small server would collect a dozen times a second for the handshakes of
	// some mail clients. Measured (S5 of bench, in one run): a tenth less CPU
	// time for a login than with the collector's usual twice what is alive.
	roomToWork = 32 << 20
)

// A heapLook is the state of the heap at one moment, in bytes.
type heapLook struct {
	allocated uint64 // since the start of the process
	live      uint64 // reachable at the last collection
	mapped    uint64 // of the system's memory
}

func lookAtHeap() heapLook {
	samples := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"},
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
	}
	metrics.Read(samples)
	value := func(i int) uint64 { return samples[i].Value.Uint64() }
	return heapLook{allocated: value(0), live: value(1), mapped: value(2) + value(3) + value(4)}
}

// calm reports whether so little has been allocated since before that what lies
// around will not be wanted soon, and whether there is enough of it.
func (now heapLook) calm(before heapLook) bool {
	kept := now.live + now.live/8 // pieces between live objects cannot be given back
	return now.allocated-before.allocated < now.live/8 && now.mapped > kept+calmWaste
}

// percent is how much the heap may grow before the next collection (GOGC): a
// crowd that comes between two looks makes five times of what is alive at the
// most. A large heap is one of buffers, which the collector need not look into,
// so it may come more often than usual.
func (now heapLook) percent() int {
	return int(min(max(roomToWork*100/max(now.live, 1), 50), 400))
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
	percent := 100 // the runtime's own
	for before := lookAtHeap(); ; {
		if now := before.percent(); now != percent && !chosen {
			debug.SetGCPercent(now) // stops everybody for a moment
			percent = now
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := lookAtHeap()
		if now.calm(before) {
			debug.FreeOSMemory()
			now = lookAtHeap()
		}
		before = now
	}
}
