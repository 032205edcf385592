package message

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"postern/internal/share"
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
	Owner        share.Owner // whose share of memory and disk it counts for
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
	err      error // the result of every further call
}

// Write stores the next bytes. An error is final for the message: its memory or file
// is released at once, and every later call returns the same error.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	w.received += int64(len(p))
	err := w.cleaner.write(p, w.store.append)
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
	err := w.cleaner.finish(w.store.append)
	if err == nil {
		err = w.store.flush()
	}
	var m *Message
	if err == nil {
		m, err = w.store.message()
	}
	if err != nil {
		w.fail(err)
		return nil, err
	}
	w.err = ErrClosed // the store belongs to the message now
	return m, nil
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

// spillSize is the limit of one message in memory, in bytes. A larger one is written to a
// file, from the beginning if the client has declared the size (RFC 1870). firstStep is the
// smallest buffer, so that a small mail needs little memory.
const (
	spillSize = 64 << 10
	firstStep = 1 << 10
)

// A store holds the clean bytes of one message, in memory or in a file. It is
// written by one goroutine, and read by many once it is written.
type store struct {
	stage    *Stage
	declared int64 // size of the whole message, if the client has declared it
	size     int64
	high     int64 // offset after the last byte >= 0x80
	body     int64 // offset of the body; message sets it
	mem      []byte
	charged  int64 // bytes that this store counts in stage.memory

	file *os.File      // nil as long as mem holds everything
	base int64         // where the message begins in file
	out  *bufio.Writer // buffers writes to file, until the next flush

	closing sync.Once
	err     error // of Close
}

// append stores clean bytes, possibly none. Small pieces are buffered until flush.
func (s *store) append(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	if i := lastHigh(p); i >= 0 {
		s.high = s.size + int64(i) + 1
	}
	if s.file == nil && !s.grow(len(p)) {
		if err := s.spill(); err != nil {
			return &StorageError{err}
		}
	}
	s.size += int64(len(p))
	if s.file == nil {
		s.mem = append(s.mem, p...)
		return nil
	}
	if s.out == nil {
		// flush returns the buffer before the server waits for the client, so that few
		// are in use at the same time.
		s.out = s.stage.buffers.Get().(*bufio.Writer)
		s.out.Reset(s.file)
	}
	if _, err := s.out.Write(p); err != nil {
		return &StorageError{err}
	}
	return nil
}

// grow makes room for n bytes in mem, if the message may stay in memory.
func (s *store) grow(n int) bool {
	need := len(s.mem) + n
	if need <= cap(s.mem) {
		return true
	}
	all := max(int64(need), s.declared)
	if all > spillSize {
		return false
	}
	step := (int(all) + firstStep - 1) / firstStep * firstStep
	size := min(max(step, 2*cap(s.mem)), spillSize)
	if !s.stage.reserve(int64(size)) {
		return false
	}
	mem := make([]byte, len(s.mem), size)
	copy(mem, s.mem)
	s.stage.memory.Add(-s.charged)
	s.mem, s.charged = mem, int64(size)
	return true
}

// spill moves the message from memory to a file.
func (s *store) spill() error {
	f, err := openUnnamed(s.stage.dir)
	if err != nil {
		return err
	}
	s.file = f
	if _, err := f.Write(s.mem); err != nil {
		return err
	}
	s.stage.memory.Add(-s.charged)
	s.mem, s.charged = nil, 0
	return nil
}

func (s *store) flush() error {
	if s.out == nil {
		return nil
	}
	err := s.out.Flush()
	s.out.Reset(nil)
	s.stage.buffers.Put(s.out)
	s.out = nil
	if err != nil {
		return &StorageError{err}
	}
	return nil
}

// ReadAt implements io.ReaderAt for the bytes that have been flushed. If a file has become
// shorter, as one of the spool may, that is an error and not the end of the message.
func (s *store) ReadAt(p []byte, off int64) (int, error) {
	if s.file != nil {
		n, err := s.file.ReadAt(p, s.base+off)
		if errors.Is(err, io.EOF) && off+int64(n) < s.size {
			err = io.ErrUnexpectedEOF
		}
		return n, err
	}
	if off >= int64(len(s.mem)) {
		return 0, io.EOF
	}
	n := copy(p, s.mem[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Close releases memory and file, once.
func (s *store) Close() error {
	s.closing.Do(func() {
		s.flush()
		s.stage.memory.Add(-s.charged)
		if s.file != nil {
			s.err = s.file.Close()
		}
	})
	return s.err
}

// createUnlinked creates a file in dir with mode 0600 and removes its name at once.
func createUnlinked(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "postern-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
