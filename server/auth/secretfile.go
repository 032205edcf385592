package auth

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
)

// longestSecret is more than a password or the address of a database needs.
const longestSecret = 4 << 10 // bytes

// ReadSecretFile returns the one line of a file that holds a password, or
// something with a password in it. Everybody else on the machine must be kept
// from the file by its mode. Errors name the file, never what is in it.
func ReadSecretFile(path string) (string, error) {
	// Without O_NONBLOCK a named pipe would be waited for.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a regular file; name one with the secret on its one line", path)
	}
	if mode := info.Mode().Perm(); mode&0o007 != 0 {
		return "", fmt.Errorf("%s has mode %04o, so that everybody on this machine may read the secret or change it: chmod o= %s", path, mode, path)
	}
	text, err := io.ReadAll(io.LimitReader(f, longestSecret+1))
	if err != nil {
		return "", err
	}
	secret, err := oneLine(text)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return secret, nil
}

func oneLine(text []byte) (string, error) {
	line := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	switch {
	case len(text) > longestSecret:
		return "", errors.New("the file is too long to hold just one secret")
	case line == "":
		return "", errors.New("the file is empty; write the secret on its one line")
	case strings.ContainsAny(line, "\x00\r\n"):
		return "", errors.New("the file holds more than one line; write the secret on one line, and nothing else")
	}
	return line, nil
}
