package auth

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestReadSecretFile(t *testing.T) {
	tests := []struct {
		name, text string
		mode       fs.FileMode
		want       string // empty: an error
	}{
		{"a line", "top secret\n", 0o600, "top secret"},
		{"no line end", " topsecret", 0o640, " topsecret"},
		{"DOS", "topsecret\r\n", 0o400, "topsecret"},
		{"empty", "", 0o600, ""},
		{"blank", "\n", 0o600, ""},
		{"two lines", "topsecret\ntopsecret\n", 0o600, ""},
		{"NUL", "top\x00secret", 0o600, ""},
		{"long", strings.Repeat("topsecret", 1000), 0o600, ""},
		{"readable by all", "topsecret\n", 0o644, ""},
		{"writable by all", "topsecret\n", 0o602, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "secret")
			if err := errors.Join(os.WriteFile(path, []byte(tt.text), 0o600), os.Chmod(path, tt.mode)); err != nil {
				t.Fatal(err)
			}
			got, err := ReadSecretFile(path)
			if got != tt.want || (err == nil) != (tt.want != "") {
				t.Fatalf("%q, %v", got, err)
			}
			if err != nil && (!strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "topsecret")) {
				t.Errorf("%v", err)
			}
		})
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadSecretFile(pipe); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a named pipe: %v", err)
	}
	if _, err := ReadSecretFile(filepath.Join(t.TempDir(), "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}
