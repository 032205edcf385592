package message

import "os"

// createUnlinked makes a file in dir that only we can open and takes its name
// away at once.
func createUnlinked(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "postern-*") // mode 0600
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
