package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	calmLook  = 5 * time.Second // how often the heap is looked at
	calmWaste = 4 << 20         // what is not worth the work of giving it back
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

// giveBackMemory returns to the system what the handshakes of a crowd have left
// behind, once the crowd is idle. The collector by itself comes only when as
// much has been allocated again as is alive, or after two minutes, and keeps room
// for that. While there is work nothing is done: a smaller heap all the time
// (GOGC) would cost CPU time for each message. It returns when ctx ends.
func giveBackMemory(ctx context.Context) {
	ticker := time.NewTicker(calmLook)
	defer ticker.Stop()
	for before := lookAtHeap(); ; {
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
