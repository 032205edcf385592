package relay

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// errUnclean means that a decorator broke what message promises.
var errUnclean = errors.New("the message has a bare CR, a bare LF or a NUL in it")

var crlf = []byte("\r\n")

// writeBody writes the message from in to out, dot-stuffed (RFC 5321 4.5.2),
// but for its last CRLF, which belongs to the CRLF "." CRLF that the caller
// ends the data with; an empty message becomes one empty line by that. The last
// block stays in out, to go with that end.
//
// It is the last one who can see that only clean bytes leave (RFC 5321
// 2.3.8): a Postfix that trusts us does not look, and a bare LF before a dot
// could end the data there.
func writeBody(out *bufio.Writer, in *bufio.Reader) error {
	start, due := true, false // at the start of a line; CRLF still to be written
	for {
		piece, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			// A line longer than the buffer comes in pieces, its CRLF in one.
			if piece, err = wholeCRLF(in, piece); err != nil {
				return err
			}
		} else if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		text, ended := bytes.CutSuffix(piece, crlf)
		if bytes.IndexByte(text, '\r') >= 0 || bytes.IndexByte(text, 0) >= 0 || !ended && bytes.IndexByte(text, '\n') >= 0 {
			return errUnclean
		}
		if due && len(piece) > 0 {
			out.Write(crlf)
			due = false
		}
		if start && len(text) > 0 && text[0] == '.' {
			out.WriteByte('.')
		}
		if _, broken := out.Write(text); broken != nil {
			return broken
		}
		if err != nil {
			return nil
		}
		start, due = ended, ended
	}
}

// wholeCRLF leaves a CR at the end of a piece to the next one.
func wholeCRLF(in *bufio.Reader, piece []byte) ([]byte, error) {
	if piece[len(piece)-1] != '\r' {
		return piece, nil
	}
	return piece[:len(piece)-1], in.UnreadByte()
}
