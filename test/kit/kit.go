// Package kit has what the tests of several packages share: ports that stay reserved,
// waiting for an event, log buffers, certificates, small disks, processes of postern
// and of the test itself, and a mail client.
//
// The machine may be slow, may stop for seconds, and runs the tests of other packages
// at the same time. Therefore nothing here measures time, and nothing is released that
// a test still needs.
package kit

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Main runs the tests of a package, and fails it if they leave goroutines. TestMain
// exits with its result. goleak itself waits less than half a second for a goroutine
// that is about to end.
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

// AtOnce runs n parallel tests of the package at a time, instead of one for each
// processor. It is for tests that wait more than they compute. TestMain calls it
// first. The number of fuzzing processes does not change.
func AtOnce(n int) {
	flag.Parse()
	if flag.Lookup("test.fuzz").Value.String() != "" {
		return
	}
	if err := flag.Set("test.parallel", strconv.Itoa(n)); err != nil {
		panic(err)
	}
}

// Patience is how long a test waits for an event that must happen. It passes only
// if the event never happens.
const Patience = 2 * time.Minute

// Soon waits until done returns true, and returns whether it did. Any goroutine of
// a test may call it.
func Soon(done func() bool) bool {
	const shortest, longest = 50 * time.Microsecond, 20 * time.Millisecond
	end := time.Now().Add(Patience)
	for pause := shortest; !done(); pause = min(2*pause, longest) {
		if time.Now().After(end) {
			return false
		}
		time.Sleep(pause)
	}
	return true
}

// Eventually is Soon for the goroutine of the test, which it ends if the event does
// not happen.
func Eventually(t testing.TB, event string, done func() bool) {
	t.Helper()
	if !Soon(done) {
		t.Fatalf("waited %v for %s", Patience, event)
	}
}

// Must ends the test if err is not nil.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// OpenDir returns a new folder that every user may enter and list, unlike that of
// t.TempDir, whose parents are for the owner only.
func OpenDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "postern-test")
	Must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	Must(t, os.Chmod(dir, 0o755))
	return dir
}

// Port reserves a TCP port of 127.0.0.1 until the end of the test. A server may
// listen there, stop and start again; meanwhile neither another test nor an outgoing
// connection can get the port. While no server listens, connections are refused.
func Port(t testing.TB) int {
	t.Helper()
	port, free, err := keepPort()
	Must(t, err)
	t.Cleanup(free)
	return port
}

// Addr returns 127.0.0.1 with a reserved port: see Port.
func Addr(t testing.TB) string {
	t.Helper()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(Port(t)))
}

// StaleSocket makes the Unix socket of a process that has ended, with this mode.
func StaleSocket(t testing.TB, path string, mode os.FileMode) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	Must(t, err)
	l.SetUnlinkOnClose(false)
	Must(t, errors.Join(l.Close(), os.Chmod(path, mode)))
}

// BadKeys returns the keys for which a Validate reports an error. Each error must be long
// enough to have a next step.
func BadKeys(t testing.TB, validate func(bad func(key, why string))) (keys []string) {
	t.Helper()
	validate(func(key, why string) {
		keys = append(keys, key)
		if len(why) < 20 {
			t.Errorf("%s: %q has no next step", key, why)
		}
	})
	return keys
}
