package message

import (
	"bufio"
	"errors"
	"io"
	"os"
	"sync"

	"postern/internal/share"
)

// spillSize is the limit of one message in memory, in bytes. A larger one is written to a
// file, from the beginning if the client has declared the size (RFC 1870). firstStep is the
// smallest buffer, so that a small mail needs little memory.
const (
	spillSize = 64 << 10
	firstStep = 1 << 10
)

// diskStep is how many bytes of a file are counted at a time, before they are written.
const diskStep = 64 << 10

// headerMemory is what one header of the largest size needs; see message.
const headerMemory = 6 * maxHeader

// A store holds the clean bytes of one message, in memory or in a file. It is
// written by one goroutine, and read by many once it is written.
type store struct {
	stage    *Stage
	owner    share.Owner
	declared int64 // size of the whole message, if the client has declared it
	size     int64
	high     int64 // offset after the last byte >= 0x80
	body     int64 // offset of the body; message sets it
	mem      []byte
	charged  int64 // bytes that this store counts in stage.memory

	file   *os.File      // nil as long as mem holds everything
	base   int64         // where the message begins in file
	out    *bufio.Writer // buffers writes to file, until the next flush
	onDisk int64         // bytes that this store counts in stage.disk

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
	end := s.size + int64(len(p))
	if s.file == nil && !s.grow(len(p)) {
		if err := s.spill(end); err != nil {
			return &StorageError{err}
		}
	}
	if s.file != nil {
		if err := s.reserveDisk(end); err != nil {
			return &StorageError{err}
		}
	}
	s.size = end
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
	if s.stage.memory.Take(s.owner, int64(size)) != nil {
		return false
	}
	mem := make([]byte, len(s.mem), size)
	copy(mem, s.mem)
	s.stage.memory.Give(s.owner, s.charged)
	s.mem, s.charged = mem, int64(size)
	return true
}

// reserveDisk counts the bytes of the file up to end, and some more, so that the count need
// not change with each line.
func (s *store) reserveDisk(end int64) error {
	need := end - s.onDisk
	if need <= 0 {
		return nil
	}
	n := (need + diskStep - 1) / diskStep * diskStep
	r := s.stage.disk.Take(s.owner, n)
	if r != nil {
		n = need
		r = s.stage.disk.Take(s.owner, n)
	}
	if r != nil {
		return &RoomError{onDisk, r}
	}
	s.onDisk += n
	return nil
}

// spill moves the message from memory to a file, which is about to have end bytes.
func (s *store) spill(end int64) error {
	if err := s.reserveDisk(end); err != nil {
		return err
	}
	f, err := openUnnamed(s.stage.dir)
	if err != nil {
		return err
	}
	s.file = f
	if _, err := f.Write(s.mem); err != nil {
		return err
	}
	s.stage.memory.Give(s.owner, s.charged)
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
		// What the file holds is free when it is closed, and not before.
		defer s.stage.disk.Give(s.owner, s.onDisk)
		defer s.stage.memory.Give(s.owner, s.charged)
		s.flush()
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
