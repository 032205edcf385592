package spool

import (
	"strings"
	"testing"

	"postern/test/kit"
)

// A disk that is really full: 452, nothing left behind, and what was taken
// before is handed on.
func TestFullFileSystem(t *testing.T) {
	dir := t.TempDir()
	kit.SmallDisk(t, dir, 256)
	r := newRig(t, dir, nil)
	r.hop.Stop()
	taken := 0
	for {
		m := toBob("x")
		m.body = strings.Repeat(strings.Repeat("x", 70)+"\r\n", 400)
		if _, err := submit(t.Context(), r.front, m); err != nil {
			wantReply(t, err, 452)
			break
		}
		if taken++; taken > 20 {
			t.Fatal("the disk is never full")
		}
	}
	if len(r.files(incoming)) > 0 || len(r.files(queued)) != taken || taken == 0 {
		t.Errorf("%d taken; left behind: %q", taken, r.files(incoming))
	}
	r.hop.Start()
	r.deliver()
	r.empty()
	if got := len(r.hop.Delivered()); got != taken {
		t.Errorf("%d of %d delivered", got, taken)
	}
	r.close()
}
