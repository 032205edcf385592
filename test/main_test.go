package test

import (
	"os"
	"testing"

	"postern/test/kit"
)

// program builds postern once for all tests, at the first one that needs it:
// the one with the race detector to find mistakes, the plain one to measure.
var program, plainProgram = kit.Program("postern-race", "-race"), kit.Program("postern")

func TestMain(m *testing.M) {
	status := m.Run()
	kit.RemovePrograms()
	os.Exit(status)
}
