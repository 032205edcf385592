package ldapclient

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync/atomic"
)

// The bounds on what a server sends for one request. The responses to our requests, and chains of
// certificates, are much smaller.
//
// The BER decoder of the library copies the content of an element at each level of nesting, and
// allocates some hundred bytes for each element: within 256 KiB a server could make it allocate
// 300 MB. The library also decodes what is inside the values of controls, which is not visible
// here as elements.
const (
	maxResponse = 256 << 10 // bytes
	maxElements = 10_000    // BER elements; an entry has one for each value, and a few more
	maxControls = 4 << 10   // bytes of controls
	maxDepth    = 12        // of elements in each other; RFC 4511 needs 6
)

var (
	errTooMuch     = fmt.Errorf("the server sent more than %d bytes for one request", maxResponse)
	errTooMany     = fmt.Errorf("the server sent more than %d BER elements for one request", maxElements)
	errTooDeep     = fmt.Errorf("the server sent BER elements nested more than %d deep", maxDepth)
	errControls    = fmt.Errorf("the server sent more than %d bytes of controls for one request", maxControls)
	errNotAMessage = errors.New("the server sent what is not an LDAP message (RFC 4511, section 5.1)")
)

// A foreignError is an answer that does not begin as an LDAP message.
type foreignError struct{ first []byte }

func (e *foreignError) Error() string { return errNotAMessage.Error() }
func (e *foreignError) Unwrap() error { return errNotAMessage }

// newForeignError reads a few more bytes of an answer, by which its protocol can be recognised.
func newForeignError(first []byte, in io.Reader) error {
	const enough = 5
	more := make([]byte, enough)
	n, _ := io.ReadAtLeast(in, more, enough-len(first)) // what there is
	return &foreignError{append(slices.Clone(first), more[:n]...)}
}

// An allowance is what a server may still send for the request in progress. It is safe for
// concurrent use: each value is counted down by one reader.
type allowance struct {
	bytes    atomic.Int64 // on the network, with those of TLS
	elements atomic.Int64
	controls atomic.Int64
}

// renew allows the response to one more request.
func (a *allowance) renew() {
	a.bytes.Store(maxResponse)
	a.elements.Store(maxElements)
	a.controls.Store(maxControls)
}

// A checkedConn is the connection above TLS, from which the library reads. It passes on only
// whole messages, within the allowance. Read is for one goroutine.
type checkedConn struct {
	net.Conn
	in      *bufio.Reader // of Conn
	allowed *allowance
	message []byte // checked, and not yet read by the library

	answers atomic.Bool           // a message has been received
	failure atomic.Pointer[error] // why Read has failed; the library keeps only its text
}

func newCheckedConn(c net.Conn, allowed *allowance) *checkedConn {
	return &checkedConn{Conn: c, in: bufio.NewReader(c), allowed: allowed}
}

// Read implements net.Conn. After an error the connection is of no use, since the rest of a
// message cannot be skipped.
func (c *checkedConn) Read(b []byte) (int, error) {
	if len(c.message) == 0 {
		var err error
		if c.message, err = readMessage(c.in, c.allowed); err != nil {
			c.failure.Store(&err)
			return 0, err
		}
		c.answers.Store(true)
	}
	n := copy(b, c.message)
	c.message = c.message[n:]
	return n, nil
}

// readMessage reads one message and not a byte more.
func readMessage(in io.Reader, allowed *allowance) ([]byte, error) {
	message := make([]byte, 2, 64)
	if _, err := io.ReadFull(in, message); err != nil {
		return nil, err
	}
	more := lengthBytes(message[1])
	switch {
	case message[0] != sequence:
		return nil, newForeignError(message, in)
	case more > maxLengthBytes:
		return nil, errNotAMessage
	case more > 0:
		message = message[:2+more]
		if _, err := io.ReadFull(in, message[2:]); err != nil {
			return nil, err
		}
	}
	header, err := parseHeader(message, maxResponse)
	if err != nil || header.identifier != sequence {
		return nil, errNotAMessage
	}
	// A buffer that grows, so that a length alone costs no memory.
	content, err := io.ReadAll(io.LimitReader(in, int64(header.length)))
	if err == nil && len(content) < header.length {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	if err := checkMessage(content, allowed); err != nil {
		return nil, err
	}
	return append(message, content...), nil
}

// The identifiers of BER (X.690, section 8.1.2).
const (
	sequence    = 0x30 // universal, constructed
	constructed = 0x20 // bit of every constructed element
	longTag     = 0x1f // bits of an identifier of several bytes, which LDAP does not have
	longLength  = 0x80 // bit of a length of several bytes

	maxLengthBytes = 4
)

// lengthBytes returns how many bytes follow the first byte of a length.
func lengthBytes(first byte) int {
	if first < longLength {
		return 0
	}
	return int(first &^ longLength)
}

// A header is the beginning of a BER element.
type header struct {
	identifier byte
	size       int // bytes of the header
	length     int // bytes of the content
}

// parseHeader parses the header of an element, whose content is not longer than most. RFC 4511,
// section 5.1: lengths have the definite form.
func parseHeader(b []byte, most int) (h header, err error) {
	if len(b) < 2 || b[0]&longTag == longTag {
		return h, errNotAMessage
	}
	h = header{identifier: b[0], size: 2 + lengthBytes(b[1]), length: int(b[1])}
	if b[1] >= longLength {
		if h.size == 2 || h.size > 2+maxLengthBytes || h.size > len(b) {
			return h, errNotAMessage
		}
		h.length = 0
		for _, digit := range b[2:h.size] {
			h.length = h.length<<8 | int(digit)
		}
	}
	if h.length > most {
		return h, errNotAMessage
	}
	return h, nil
}

// checkMessage walks through the content of a message, and takes its elements from the
// allowance. After the number of a message and its operation come only controls (RFC 4511,
// section 4.1.1).
func checkMessage(content []byte, allowed *allowance) error {
	var ends []int // of the elements around the current one, the innermost last
	fields := 0    // of the message so far
	for at := 0; at < len(content); {
		end := len(content)
		if len(ends) > 0 {
			end = ends[len(ends)-1]
		}
		h, err := parseHeader(content[at:end], end-at)
		if err != nil || at+h.size+h.length > end {
			return errNotAMessage
		}
		if allowed.elements.Add(-1) < 0 {
			return errTooMany
		}
		if len(ends) == 0 {
			if fields++; fields > 2 && allowed.controls.Add(-int64(h.size+h.length)) < 0 {
				return errControls
			}
		}
		at += h.size
		if h.identifier&constructed == 0 {
			at += h.length
		} else if ends = append(ends, at+h.length); len(ends) >= maxDepth {
			return errTooDeep
		}
		for len(ends) > 0 && ends[len(ends)-1] == at {
			ends = ends[:len(ends)-1]
		}
	}
	return nil
}
