package process

import (
	"context"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestShouldReturn(t *testing.T) {
	const mib = 1 << 20
	tests := []struct {
		name      string
		allocated uint64 // since before
		now       heapState
		want      bool
	}{
		{"many clients have become idle", mib, heapState{live: 30 * mib, held: 70 * mib}, true},
		{"there is work", 10 * mib, heapState{live: 30 * mib, held: 70 * mib}, false},
		{"little to return", mib, heapState{live: 30 * mib, held: 33 * mib}, false},
		{"a small server at rest", 0, heapState{live: 2 * mib, held: 5 * mib}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := heapState{allocated: 1000 * mib}
			tt.now.allocated = before.allocated + tt.allocated
			if got := tt.now.shouldReturn(before); got != tt.want {
				t.Errorf("shouldReturn is %v", got)
			}
		})
	}
}

func TestPercent(t *testing.T) {
	const mib = 1 << 20
	for live, want := range map[uint64]int{0: 425, 4 * mib: 425, 16 * mib: 125, 32 * mib: 75, 320 * mib: 30} {
		if got := (heapState{live: live}).percent(); got != want {
			t.Errorf("%d MiB live: %d per cent, want %d", live/mib, got, want)
		}
	}
}

// The names of the samples are defined by the runtime: a wrong one is always 0.
func TestReadHeap(t *testing.T) {
	if now := readHeap(); now.allocated == 0 || now.held == 0 {
		t.Errorf("got %+v", now)
	}
}

func TestCollections(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	collected := collections(ctx)
	<-collected          // at once
	for n := 0; n < 3; { // and not only the first one
		runtime.GC()
		select {
		case <-collected:
			n++
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Holes between objects that stay cannot be returned: trying again each second
// would have no effect.
func TestMemoryIsReturnedOnce(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection would let the holes be used again
	kept := make([]*[64]byte, 1<<14)
	for i := range kept {
		for range 64 {
			kept[i] = new([64]byte)
		}
	}
	before := readHeap()
	debug.FreeOSMemory()
	now := readHeap()
	now.allocated = before.allocated
	if now.shouldReturn(before) {
		t.Errorf("%+v: more memory is to be returned", now)
	}
	runtime.KeepAlive(kept)
}
