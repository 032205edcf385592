package throttle

import (
	"net/netip"
	"testing"
)

func BenchmarkAcquire(b *testing.B) {
	for _, known := range []bool{true, false} {
		b.Run(map[bool]string{true: "known", false: "unknown"}[known], func(b *testing.B) {
			v := newVerifier()
			addr := netip.MustParseAddr("192.0.2.1")
			b.ReportAllocs()
			for b.Loop() {
				a, err := v.Acquire(b.Context(), addr, "alice@example.org")
				if err != nil {
					b.Fatal(err)
				}
				if known {
					a.Done(Outcome{Result: Success, User: "alice"})
				} else {
					a.Done(Outcome{})
				}
			}
		})
	}
}
