//go:build !unix

package spool

import (
	"errors"
	"os"
)

// lock fails: two servers on one spool would deliver everything twice.
func (f *folder) lock() (*os.File, error) {
	return nil, errors.New("a spool needs file locks, which postern knows on Unix only")
}
