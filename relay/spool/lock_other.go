//go:build !unix

package spool

import (
	"errors"
	"os"
)

// lock fails, because two servers on one spool would deliver every message twice.
func (f *folder) lock() (*os.File, error) {
	return nil, errors.New("a spool needs file locks, which postern supports on Unix only")
}
