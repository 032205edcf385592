package main

import (
	"fmt"
	"io/fs"
	"os"
)

// specialFiles finds keys that name something else than a file. To open a named
// pipe is to wait for somebody who writes into it: no signal ends that, and the
// server would neither start nor stop. A file that is missing, or that may not be
// read, is for whoever opens it to report.
func specialFiles(cfg *Config) (all []problem) {
	for _, f := range accessOf(cfg, "").Reads {
		if err := regular(f.Path); err != nil {
			all = append(all, problem{path: f.Key, why: err.Error()})
		}
	}
	return all
}

// regular refuses what is there and no file.
func regular(path string) error {
	info, err := os.Stat(path)
	if err != nil || info.Mode().IsRegular() {
		return nil
	}
	return fmt.Errorf("%s is %s and not a regular file; name one that can be read again and again", path, kindOf(info.Mode()))
}

func kindOf(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "a directory"
	case mode&fs.ModeNamedPipe != 0:
		return "a named pipe (FIFO)"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	}
	return "a device"
}
