//go:build !linux

package main

import "time"

// monotonic is for systemd, which is Linux's own.
func monotonic() time.Duration { return 0 }
