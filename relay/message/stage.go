package message

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
)

// Errors of a Writer. All of them, except a StorageError, are about the message itself
// and permanent.
var (
	ErrBareNewline    = errors.New("message: bare CR or LF")
	ErrNUL            = errors.New("message: NUL byte")
	ErrLongLine       = errors.New("message: line too long")
	ErrHeaderTooLarge = errors.New("message: header too large")
	ErrClosed         = errors.New("message: writer is closed")
)

// A StorageError means that the message could not be stored: disk full, folder
// missing or not writable. It is temporary, and not about the message.
type StorageError struct{ Err error }

func (e *StorageError) Error() string { return fmt.Sprintf("message: cannot stage: %v", e.Err) }
func (e *StorageError) Unwrap() error { return e.Err }

// BareNewlines is the treatment of a CR or LF that is not part of a CRLF.
type BareNewlines uint8

const (
	Normalize BareNewlines = iota // as Postfix: bare LF becomes CRLF, bare CR a space
	Reject                        // ErrBareNewline
)

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *BareNewlines) UnmarshalText(text []byte) error {
	switch string(text) {
	case "normalize":
		*b = Normalize
	case "reject":
		*b = Reject
	default:
		return fmt.Errorf("unknown value %q: write \"normalize\" or \"reject\"", text)
	}
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (b BareNewlines) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

func (b BareNewlines) String() string {
	if b == Reject {
		return "reject"
	}
	return "normalize"
}

// A Stage stores messages while they arrive and until they have been sent. It may be
// used by many goroutines at once.
type Stage struct {
	dir     string
	limit   int64        // of memory
	memory  atomic.Int64 // bytes in memory of all messages
	buffers sync.Pool    // *bufio.Writer, in use only while a Write runs
}

// NewStage returns a Stage that holds up to memory bytes of all messages together in
// memory, and the rest in unnamed files in dir; an empty dir is the system's folder
// for temporary files.
func NewStage(dir string, memory int64) *Stage {
	if dir == "" {
		dir = os.TempDir()
	}
	s := &Stage{dir: dir, limit: memory}
	s.buffers.New = func() any { return bufio.NewWriterSize(nil, 32<<10) }
	return s
}

// InMemory returns the number of bytes that staged messages hold in memory now.
func (s *Stage) InMemory() int64 { return s.memory.Load() }

// reserve counts n more bytes in memory, if the limit allows it.
func (s *Stage) reserve(n int64) bool {
	if s.memory.Add(n) > s.limit {
		s.memory.Add(-n)
		return false
	}
	return true
}

// Options are the properties of one message that is about to arrive.
type Options struct {
	BareNewlines BareNewlines
	Size         int64 // in bytes, as declared by the client (RFC 1870); 0 if it is not
}

// New returns a Writer for one message. The caller must call Message or Abort.
func (s *Stage) New(o Options) *Writer {
	return &Writer{
		store:   &store{stage: s, declared: o.Size},
		cleaner: cleaner{reject: o.BareNewlines == Reject},
	}
}

// A Writer receives the bytes of one message as they arrive, without dot-stuffing,
// and cleans them. It is used by one goroutine at a time.
type Writer struct {
	store    *store
	cleaner  cleaner
	received int64
	high     int64 // offset after the last byte >= 0x80
	err      error // the result of every further call
}

// Write stores the next bytes. An error is final for the message: its memory or file
// is released at once, and every later call returns the same error.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	w.received += int64(len(p))
	err := w.cleaner.write(p, w.keep)
	if ferr := w.store.flush(); err == nil {
		err = ferr
	}
	if err != nil {
		w.fail(err)
		return 0, err
	}
	return len(p), nil
}

// Received returns the number of bytes passed to Write, as the client sent them.
func (w *Writer) Received() int64 { return w.received }

// Message ends the writing and returns the message, which the caller closes.
// After an error there is nothing to close.
func (w *Writer) Message() (*Message, error) {
	if w.err != nil {
		return nil, w.err
	}
	err := w.cleaner.finish(w.keep)
	if err == nil {
		err = w.store.flush()
	}
	var h *parsed
	if err == nil {
		h, err = readHeader(w.store)
	}
	if err != nil {
		w.fail(err)
		return nil, err
	}
	w.err = ErrClosed // the store belongs to the message now
	s := &stored{store: w.store, start: h.body, high: w.high > h.body}
	return view(s, h.fields, h.head), nil
}

// Abort discards the bytes that have arrived. It may be called at any time and more
// than once; after Message it does nothing.
func (w *Writer) Abort() {
	if w.err == nil {
		w.fail(ErrClosed)
	}
}

func (w *Writer) fail(err error) {
	w.err = err
	w.store.Close()
}

// keep stores clean bytes, possibly none.
func (w *Writer) keep(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	if i := lastHigh(p); i >= 0 {
		w.high = w.store.size + int64(i) + 1
	}
	return w.store.append(p)
}
