//go:build !linux

package message

import "os"

// openUnnamed creates a file in dir that has no name.
func openUnnamed(dir string) (*os.File, error) { return createUnlinked(dir) }
