// Package kit is what the tests of several packages have in common: ports that
// stay theirs, waiting for what others do, a disk that is soon full, a
// certificate, and what it takes to run postern as a process and to talk to it.
//
// The machine may be slow, may stand still for seconds, and runs the tests of
// other packages at the same time. So nothing here is measured against a clock,
// and nothing is given back that a test still needs.
package kit

import (
	"testing"
	"time"
)

// Patience is how long a test waits for what has to happen. It is reached only
// where that never does.
const Patience = 2 * time.Minute

// Soon waits until so reports true, and returns whether it has. Any goroutine of
// a test may call it.
func Soon(so func() bool) bool {
	const often, seldom = 50 * time.Microsecond, 20 * time.Millisecond
	end := time.Now().Add(Patience)
	for pause := often; !so(); pause = min(2*pause, seldom) {
		if time.Now().After(end) {
			return false
		}
		time.Sleep(pause)
	}
	return true
}

// Eventually is Soon for the goroutine of the test itself, which ends if what
// is awaited does not happen.
func Eventually(t testing.TB, what string, so func() bool) {
	t.Helper()
	if !Soon(so) {
		t.Fatalf("waited %v in vain for %s", Patience, what)
	}
}
