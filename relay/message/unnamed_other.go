//go:build !linux

package message

import "os"

// openUnnamed makes a file in dir that has no name.
func openUnnamed(dir string) (*os.File, error) { return createUnlinked(dir) }
