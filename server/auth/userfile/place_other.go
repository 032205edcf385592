//go:build !linux

package userfile

import "os"

// reserve relies on the write, which is undone if it fails.
func reserve(*os.File, int64, int64) error { return nil }

// isMount relies on the error of a rename.
func isMount(string) bool { return false }

func isImmutable(string) bool { return false }
