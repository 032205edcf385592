package kit

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
)

// A LogBuffer collects the output of a logger or of a process. Any goroutine may call
// its methods. The zero value is empty.
type LogBuffer struct {
	mu  sync.Mutex
	all bytes.Buffer
}

// Logger returns a logger that writes lines of key=value, of every level, into b.
func (b *LogBuffer) Logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// Write implements io.Writer. It never fails.
func (b *LogBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.Write(p)
}

// String returns everything that was written.
func (b *LogBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.String()
}

// Take returns everything that was written since the last call, and empties b.
func (b *LogBuffer) Take() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.all.Reset()
	return b.all.String()
}

// Lines returns the lines without their line ends.
func (b *LogBuffer) Lines() []string {
	text := b.String()
	if text == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

// First returns the first line that contains part, or "".
func (b *LogBuffer) First(part string) string {
	for _, line := range b.Lines() {
		if strings.Contains(line, part) {
			return line
		}
	}
	return ""
}

// Count returns the number of lines that contain a text of this pattern: see Glob.
func (b *LogBuffer) Count(pattern string) (n int) {
	for _, line := range b.Lines() {
		if Glob("*"+pattern+"*", line) {
			n++
		}
	}
	return n
}

// Glob reports whether s matches pattern, in which "*" matches any text, including
// none.
func Glob(pattern, s string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return s == pattern
	}
	first, last := parts[0], parts[len(parts)-1]
	if !strings.HasPrefix(s, first) {
		return false
	}
	s = s[len(first):]
	for _, part := range parts[1 : len(parts)-1] {
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s = s[i+len(part):]
	}
	return strings.HasSuffix(s, last)
}
