package spool

import (
	"strings"
	"testing"

	"postern/test/kit"
)

// On a full disk the client gets 452, no file remains, and the messages accepted before are
// delivered.
func TestFullFileSystem(t *testing.T) {
	dir := t.TempDir()
	kit.SmallDisk(t, dir, 256)
	r := newRig(t, dir, nil)
	r.hop.Stop()
	accepted := 0
	for {
		m := toBob("x")
		m.body = strings.Repeat(strings.Repeat("x", 70)+"\r\n", 400)
		if _, err := submit(t.Context(), r.front, m); err != nil {
			wantReply(t, err, 452)
			break
		}
		if accepted++; accepted > 20 {
			t.Fatal("the disk is never full")
		}
	}
	if len(r.files(incoming)) > 0 || len(r.files(queued)) != accepted || accepted == 0 {
		t.Errorf("%d accepted; files remain: %q", accepted, r.files(incoming))
	}
	r.hop.Start()
	r.deliver()
	r.empty()
	if got := len(r.hop.Delivered()); got != accepted {
		t.Errorf("%d of %d delivered", got, accepted)
	}
	r.close()
}
