package main

import "testing"

func TestMemoryIsGivenBackWhenCalm(t *testing.T) {
	const mib = 1 << 20
	tests := []struct {
		name      string
		allocated uint64 // since the last look
		now       heapLook
		want      bool
	}{
		{"a crowd has become idle", mib, heapLook{live: 30 * mib, mapped: 70 * mib}, true},
		{"there is work", 10 * mib, heapLook{live: 30 * mib, mapped: 70 * mib}, false},
		{"there is little to give back", mib, heapLook{live: 30 * mib, mapped: 36 * mib}, false},
		{"a small server at rest", 0, heapLook{live: 2 * mib, mapped: 5 * mib}, false},
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
	for live, want := range map[uint64]int{0: 400, 4 * mib: 400, 16 * mib: 200, 32 * mib: 100, 300 * mib: 50} {
		if got := (heapLook{live: live}).percent(); got != want {
			t.Errorf("%d MiB alive: %d per cent, want %d", live/mib, got, want)
		}
	}
}

// The names of the samples are the runtime's: a wrong one would be 0 for ever.
func TestHeapIsSeen(t *testing.T) {
	if now := lookAtHeap(); now.allocated == 0 || now.mapped == 0 {
		t.Errorf("got %+v", now)
	}
}
