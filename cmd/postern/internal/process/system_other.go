//go:build !linux

package process

import (
	"errors"
	"time"
)

// Capabilities, no_new_privs, systemd and Landlock exist on Linux only.

func setNoNewPrivileges() error { return nil }
func emptyBoundingSet() error   { return nil }

// DropCapabilities does nothing on this system.
func DropCapabilities() error { return nil }

// DiskSpace returns ErrUnsupported on this system.
func DiskSpace(string) (Space, error) { return Space{}, errors.ErrUnsupported }

func monotonic() time.Duration { return 0 }

func listThreads() error { return nil }

func landlockVersion() int { return 0 }

func (s *Sandbox) restrict() error { return nil }
