//go:build !linux

package main

// confine has nothing to do: Landlock is Linux's own.
func confine(*sandbox) (version int, err error) { return 0, nil }

func landlockVersion() int { return 0 }
