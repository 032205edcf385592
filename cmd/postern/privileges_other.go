//go:build !linux

package main

// forbidNewPrivileges has nothing to do: no_new_privs is Linux's own.
func forbidNewPrivileges() error { return nil }
