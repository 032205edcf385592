package message

import (
	"bufio"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
)

// spillSize is what one message may hold in memory; what is larger goes to a
// file, at once if the client has announced it (RFC 1870). firstStep is the
// smallest buffer, so that a small mail costs little.
const (
	spillSize = 64 << 10
	firstStep = 1 << 10
)

// A budget counts the bytes in memory of all messages of a stage.
type budget struct {
	limit int64
	used  atomic.Int64
}

// take asks for n bytes more.
func (b *budget) take(n int64) bool {
	if b.used.Add(n) > b.limit {
		b.used.Add(-n)
		return false
	}
	return true
}

func (b *budget) give(n int64) { b.used.Add(-n) }

// A store holds the clean bytes of one message, in memory or in a file. It is
// written by one goroutine, and read by many once it is written.
type store struct {
	stage     *Stage
	announced int64 // what size may be in the end
	size      int64
	mem       []byte
	charged   int64 // bytes of the budget that are ours

	file *os.File      // nil as long as mem holds everything
	base int64         // where the message begins in file
	out  *bufio.Writer // in front of file, until the next flush

	closing sync.Once
	err     error // of Close
}

// append keeps p. Small pieces are gathered until flush.
func (s *store) append(p []byte) error {
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
	if _, err := s.buffer().Write(p); err != nil {
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
	all := max(int64(need), s.announced)
	if all > spillSize {
		return false
	}
	step := (int(all) + firstStep - 1) / firstStep * firstStep
	size := min(max(step, 2*cap(s.mem)), spillSize)
	if !s.stage.budget.take(int64(size)) {
		return false
	}
	mem := make([]byte, len(s.mem), size)
	copy(mem, s.mem)
	s.stage.budget.give(s.charged)
	s.mem, s.charged = mem, int64(size)
	return true
}

// spill moves what is in memory to a file.
func (s *store) spill() error {
	f, err := openUnnamed(s.stage.dir)
	if err != nil {
		return err
	}
	s.file = f
	if _, err := f.Write(s.mem); err != nil {
		return err
	}
	s.stage.budget.give(s.charged)
	s.mem, s.charged = nil, 0
	return nil
}

// buffer borrows a buffer in front of the file. It goes back at the next flush,
// before the client is waited for, so that few are in use at a time.
func (s *store) buffer() *bufio.Writer {
	if s.out == nil {
		s.out = s.stage.buffers.Get().(*bufio.Writer)
		s.out.Reset(s.file)
	}
	return s.out
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

// ReadAt implements io.ReaderAt over what has been flushed. A file that has
// become shorter, as one of the spool may, is not the end of a message.
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

// first returns the first n bytes, or all if there are fewer. They are not to
// be changed.
func (s *store) first(n int64) ([]byte, error) {
	n = min(n, s.size)
	if s.file == nil {
		return s.mem[:n:n], nil
	}
	b := make([]byte, n)
	if _, err := s.ReadAt(b, 0); err != nil {
		return nil, &StorageError{err}
	}
	return b, nil
}

// largeHeader is where a header begins to count as hostile: see reserve.
const largeHeader = 64 << 10

var errMemory = errors.New("too much memory in use")

// reserve counts the n bytes that the header of the message needs beside the
// buffer. A message cannot do without them, so an ordinary header gets them
// even where the budget is short; a large one has to come back later.
func (s *store) reserve(n int64) error {
	if n <= largeHeader {
		s.stage.budget.used.Add(n)
	} else if !s.stage.budget.take(n) {
		return &StorageError{errMemory}
	}
	s.charged += n
	return nil
}

// Close gives everything back, once.
func (s *store) Close() error {
	s.closing.Do(func() {
		s.flush()
		s.stage.budget.give(s.charged)
		if s.file != nil {
			s.err = s.file.Close()
		}
	})
	return s.err
}
