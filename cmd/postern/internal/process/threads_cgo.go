//go:build linux && cgo

package process

import (
	"fmt"
	"os"
)

// listThreads returns an error if package psx could not find the threads of the process. In a
// build with cgo it reads them from /proc/PID/task, and aborts the process where that fails.
func listThreads() error {
	f, err := os.Open(fmt.Sprintf("/proc/%d/task", os.Getpid()))
	if err != nil {
		return fmt.Errorf("cannot change the rights of all threads: %w; mount /proc", err)
	}
	return f.Close()
}
