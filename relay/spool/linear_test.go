package spool

import (
	"io"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"postern/relay/relaytest"
	"postern/test/kit"
)

// A report allocates in proportion to the message that it is on, whether it returns the
// whole message or the header only.
func TestReportsAreLinear(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	for _, ret := range []smtp.DSNReturn{smtp.DSNReturnFull, smtp.DSNReturnHeaders} {
		for _, size := range []int{2 << 10, 16 << 10} {
			kit.LinearGrowth(t, kit.HostileHeaders(), size, func(text string) func() {
				m := relaytest.TryStage(t, text)
				if m == nil {
					return nil
				}
				j := &job{spool: r.spool, entry: &entry{id: "0"}, content: &content{header: header{
					Arrived: time.Now(), Size: m.Size(), Envelope: envelope{Sender: "alice@example.org", Return: string(ret)},
					To: []recipient{{Address: "bob@example.com"}},
				}}}
				return func() {
					w := &reporter{job: j, kind: failed, about: []failure{{status: "5.0.0"}}, out: io.Discard, boundary: "b"}
					if w.write(m); w.err != nil {
						t.Error(w.err)
					}
				}
			})
		}
	}
}
