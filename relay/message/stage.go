package message

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"sync"

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

// A StorageError means that the message could not be stored: disk full, a limit reached
// (RoomError), folder missing or not writable. It is temporary, and not about the message.
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

// Limits are the limits of a Stage, in bytes.
type Limits struct {
	Memory  int64 // of all messages together
	Disk    int64 // in files, of all messages together
	Message int64 // of the largest message that clients may send
}

// A Stage stores messages while they arrive and until they have been sent. It may be
// used by many goroutines at once.
//
// Memory and disk are shared (package share): a user may hold at most a quarter of each, and
// so may all clients without a login together. What an owner may not hold in memory is
// written to a file. On disk, every owner may hold one message of the largest size.
type Stage struct {
	dir     string
	memory  share.Pool
	disk    share.Pool
	buffers sync.Pool // *bufio.Writer, in use only while a Write runs
}

// NewStage returns a Stage that holds up to memory bytes of all messages together in
// memory, and the rest in unnamed files in dir; an empty dir is the system's folder
// for temporary files. The files have no limit before SetLimits.
func NewStage(dir string, memory int64) *Stage {
	if dir == "" {
		dir = os.TempDir()
	}
	s := &Stage{dir: dir}
	s.memory.SetLimits(share.Quarter(memory, spillSize))
	s.buffers.New = func() any { return bufio.NewWriterSize(nil, 32<<10) }
	return s
}

// SetLimits replaces the limits at once. Messages that are staged already stay, and count.
func (s *Stage) SetLimits(l Limits) {
	s.memory.SetLimits(share.Quarter(l.Memory, spillSize))
	// A message is stored with CRLF line ends, and may have come with bare LF.
	s.disk.SetLimits(share.Quarter(l.Disk, l.Message+l.Message/16+diskStep))
}

// InMemory returns the number of bytes that staged messages hold in memory now.
func (s *Stage) InMemory() int64 { return s.memory.Used() }

// OnDisk returns the number of bytes that staged messages may fill in files now.
func (s *Stage) OnDisk() int64 { return s.disk.Used() }

// Check returns an error if a message of size bytes could not be staged for owner now. It
// reserves nothing: a client that declares a size and sends nothing must not occupy it.
func (s *Stage) Check(owner share.Owner, size int64) error {
	if size <= spillSize && s.memory.Check(owner, size) == nil {
		return nil
	}
	if r := s.disk.Check(owner, size); r != nil {
		return &StorageError{&RoomError{onDisk, r}}
	}
	return nil
}

// A RoomError is the cause of a StorageError if a limit of the Stage is reached, or an
// owner's share of it.
type RoomError struct {
	What    string // memory or disk
	Refusal *share.Refusal
}

const (
	onDisk   = "disk"
	inMemory = "memory"
)

func (e *RoomError) Error() string {
	key, r := "server.stage_"+e.What, e.Refusal
	if r.Full() {
		return fmt.Sprintf("%s is used up: %d of %d bytes; raise it if clients need more", key, r.Held, r.Limit)
	}
	return fmt.Sprintf("the share of %s in %s is used up: %d bytes, and %d are allowed now; raise %[2]s if clients need more",
		r.Who, key, r.Held, r.Limit)
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
		store:   &store{stage: s, owner: o.Owner, declared: o.Size},
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
