//go:build !linux

package pam

import (
	"errors"
	"net"
	"os/exec"
)

// peerUID is implemented for Linux only: elsewhere a named socket accepts no clients.
func peerUID(net.Conn) (int, error) { return -1, errors.ErrUnsupported }

// startConfined starts a child. Only Linux has capabilities.
func startConfined(cmd *exec.Cmd) error { return cmd.Start() }

// descendants is implemented for Linux only: elsewhere only the process group is killed.
func descendants(int) []int { return nil }
