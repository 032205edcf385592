//go:build !linux

package process

import "time"

// Capabilities, no_new_privs and systemd exist on Linux only.

func setNoNewPrivileges() error { return nil }
func emptyBoundingSet() error   { return nil }

// DropCapabilities does nothing on this system.
func DropCapabilities() error { return nil }

func monotonic() time.Duration { return 0 }
