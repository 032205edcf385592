package main

import (
	"context"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestMemoryIsGivenBackWhenCalm(t *testing.T) {
	const mib = 1 << 20
	tests := []struct {
		name      string
		allocated uint64 // since the last look
		now       heapLook
		want      bool
	}{
		{"a crowd has become idle", mib, heapLook{live: 30 * mib, held: 70 * mib}, true},
		{"there is work", 10 * mib, heapLook{live: 30 * mib, held: 70 * mib}, false},
		{"there is little to give back", mib, heapLook{live: 30 * mib, held: 33 * mib}, false},
		{"a small server at rest", 0, heapLook{live: 2 * mib, held: 5 * mib}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := heapLook{allocated: 1000 * mib}
			tt.now.allocated = before.allocated + tt.allocated
			if got := tt.now.calm(before); got != tt.want {
				t.Errorf("calm is %v", got)
			}
		})
	}
}

func TestHeapHasRoom(t *testing.T) {
	const mib = 1 << 20
	for live, want := range map[uint64]int{0: 425, 4 * mib: 425, 16 * mib: 125, 32 * mib: 75, 320 * mib: 30} {
		if got := (heapLook{live: live}).percent(); got != want {
			t.Errorf("%d MiB alive: %d per cent, want %d", live/mib, got, want)
		}
	}
}

// The names of the samples are the runtime's: a wrong one would be 0 for ever.
func TestHeapIsSeen(t *testing.T) {
	if now := lookAtHeap(); now.allocated == 0 || now.held == 0 {
		t.Errorf("got %+v", now)
	}
}

func TestCollectionsAreTold(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	collected := collections(ctx)
	<-collected                // at once
	for told := 0; told < 3; { // and not only the first one
		runtime.GC()
		select {
		case <-collected:
			told++
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Holes between objects that stay cannot be given back: to try it again each
// second would be work for nothing.
func TestMemoryIsGivenBackOnce(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // or the holes are used again
	kept := make([]*[64]byte, 1<<14)
	for i := range kept {
		for range 64 {
			kept[i] = new([64]byte)
		}
	}
	before := lookAtHeap()
	debug.FreeOSMemory()
	now := lookAtHeap()
	now.allocated = before.allocated
	if now.calm(before) {
		t.Errorf("%+v wants to give back more", now)
	}
	runtime.KeepAlive(kept)
}
