//go:build !linux

package main

// What these three would take away is Linux's own.

func forbidNewPrivileges() error { return nil }
func forgetCapabilities() error  { return nil }
func dropCapabilities() error    { return nil }
