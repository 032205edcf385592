package kit

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"testing"

	"go.uber.org/goleak"
)

// Main runs the tests of a package and fails it for the goroutines that they
// leave. TestMain exits with what it returns. By itself goleak waits for less
// than half a second for a goroutine that is about to end.
func Main(m *testing.M) int {
	status := m.Run()
	if status != 0 {
		return status
	}
	var err error
	if Soon(func() bool { err = goleak.Find(); return err == nil }) {
		return 0
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// AtOnce lets n parallel tests of the package run at a time, instead of one for
// each processor: for those that wait more than they compute. TestMain calls it
// first. The number of fuzzing processes stays as it was set.
func AtOnce(n int) {
	flag.Parse()
	if flag.Lookup("test.fuzz").Value.String() != "" {
		return
	}
	if err := flag.Set("test.parallel", strconv.Itoa(n)); err != nil {
		panic(err)
	}
}
