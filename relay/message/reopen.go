package message

import "os"

// Reopenable says whether Reopen will take the bytes of m: what was put on top
// of a header may have made it larger than what is read in.
func (m *Message) Reopenable() bool { return len(m.head) <= maxHeader && len(m.fields) <= maxFields }

// Reopen makes a message of the size bytes at offset in f, which a message
// wrote there through its Reader. They are taken for clean, as they were then;
// eightBit is what EightBit said. The message owns f and closes it, also when
// there is an error.
func (s *Stage) Reopen(f *os.File, offset, size int64, eightBit bool) (*Message, error) {
	kept := &store{stage: s, file: f, base: offset, size: size}
	h, err := readHeader(kept)
	if err != nil {
		kept.Close()
		return nil, err
	}
	return view(&stored{store: kept, start: h.body, high: eightBit}, h.fields, h.head), nil
}
