package fileperm

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// Open opens a file of the configuration for reading. It refuses everything that is not a
// regular file, without waiting, and files that the rules do not allow. Both errors are a
// [Refused]. instead is the file that an error asks for, such as "a text file". The caller
// closes the file.
//
// The check is about the file that was opened: it cannot be replaced between check and read.
func Open(path string, k Kind, instead string) (*os.File, fs.FileInfo, error) {
	return thisHost().open(path, k, instead)
}

// attempts is how often a file is opened that is replaced while it is checked.
const attempts = 3

func (h *host) open(path string, k Kind, instead string) (*os.File, fs.FileInfo, error) {
	for range attempts {
		f, info, err := OpenRegular(path, instead)
		if err != nil {
			return nil, nil, err
		}
		same, err := h.accepts(path, info, k)
		if err == nil && same {
			return f, info, nil
		}
		f.Close()
		if err != nil {
			return nil, nil, err
		}
	}
	return nil, nil, Refused(path + " is replaced again and again while it is checked; try again when the change is complete")
}

// accepts checks an open file. same is false if path leads to another one now.
func (h *host) accepts(path string, info fs.FileInfo, k Kind) (same bool, err error) {
	t := follow(absolute(path))
	if t.descriptor {
		return true, refusal(path, h.judge(t, k))
	}
	if !t.matches(info) {
		return false, nil
	}
	if e, ok := entryOf(t.at, info); ok {
		t.entries[len(t.entries)-1] = e // the mode of the open file
	}
	return true, refusal(path, h.judge(t, k))
}

// OpenRegular is [Open] without the rules about permissions.
func OpenRegular(path, instead string) (*os.File, fs.FileInfo, error) {
	// Without O_NONBLOCK, opening a named pipe would wait for a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = Refused(fmt.Sprintf("%s is not a regular file; name %s", path, instead))
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// ReadFile returns the content of a file that [Open] accepts. A file of more than limit bytes is an
// error.
func ReadFile(path string, k Kind, instead string, limit int64) ([]byte, error) {
	f, _, err := Open(path, k, instead)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(text)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes; name %s", path, limit, instead)
	}
	return text, nil
}

// ReadSecret reads a file that contains a password or a private key, of at most limit bytes.
// Errors name the file and do not repeat its content.
func ReadSecret(path string, limit int64) ([]byte, error) {
	return ReadFile(path, Secret, "the file that contains the secret", limit)
}

// maxSecret is more than a password or the address of a database needs.
const maxSecret = 4 << 10 // bytes

// ReadSecretLine returns the only line of a file, which is a password or contains one. Errors
// name the file and do not repeat its content.
func ReadSecretLine(path string) (string, error) {
	text, err := ReadSecret(path, maxSecret)
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
	case line == "":
		return "", errors.New("the file is empty; write the secret on its only line")
	case strings.ContainsAny(line, "\x00\r\n"):
		return "", errors.New("the file has more than one line; write only the secret, on one line")
	}
	return line, nil
}
