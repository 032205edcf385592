package saslauthd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"strings"

	"postern/internal/authsocket"
)

// A Request is the only message of a client on a connection: four strings, each after its
// length as 16 bits in network byte order.
type Request struct {
	Login, Password, Service, Realm string

	// Extended requests have a fifth string, the client's address, and their sender
	// understands the texts of package pam's answers. saslauthd ignores the extension.
	Extended bool
	Client   netip.Addr // only if Extended; the zero Addr is "unknown"
}

// marker ends the service of an extended request. A client that sends four strings keeps the
// connection open and waits for the answer, so the reader has to know before the fifth
// string whether there is one. For saslauthd, which is written in C, the service ends at the
// NUL, and it answers without reading further than the fourth string. Other clients do not
// send these bytes by accident, since their service is a C string, too. The number is the
// version: a reader of version 1 refuses other markers, so that no two readers interpret the
// same bytes differently.
const marker = "\x00postern/1"

// MaxField is the longest string that [ReadRequest] accepts and that a store sends (see
// [Request.Fits]), in bytes. saslauthd answers NO to strings of more than 256 bytes; other
// daemons with its protocol accept longer passwords.
const MaxField = 1024

var (
	// ErrTooLong is returned by ReadRequest for a string longer than MaxField.
	ErrTooLong = errors.New("saslauthd: a string of the request is too long")

	// ErrMalformed is returned by ReadRequest for invalid strings.
	ErrMalformed = errors.New("saslauthd: malformed request")
)

// A FieldError names the string of a request that cannot be sent.
type FieldError struct{ Field, Why string }

func (e *FieldError) Error() string { return "saslauthd: the " + e.Field + " " + e.Why }

// Append appends the encoded request. If r cannot be sent it returns a [*FieldError] and the
// unchanged b.
func (r Request) Append(b []byte) ([]byte, error) {
	if err := r.check(); err != nil {
		return b, err
	}
	service, tail := r.Service, []byte(nil)
	if r.Extended {
		service += marker
		client := ""
		if r.Client.IsValid() {
			client = r.Client.Unmap().WithZone("").String()
		}
		tail = appendCounted(nil, client)
	}
	for _, s := range []string{r.Login, r.Password, service, r.Realm} {
		b = appendCounted(b, s)
	}
	return append(b, tail...), nil
}

// Fits returns a [*FieldError] if a string cannot be sent, or if login or password is longer
// than MaxField, which the reader does not accept.
func (r Request) Fits() error {
	why := fmt.Sprintf("is longer than %d bytes", MaxField)
	switch {
	case len(r.Login) > MaxField:
		return &FieldError{"login", why}
	case len(r.Password) > MaxField:
		return &FieldError{"password", why}
	}
	return r.check()
}

func (r Request) check() error {
	for _, f := range []struct {
		name, value string
		limit       int
	}{
		{"login", r.Login, math.MaxUint16},
		{"password", r.Password, math.MaxUint16},
		{"service", r.Service, math.MaxUint16 - len(marker)},
		{"realm", r.Realm, math.MaxUint16},
	} {
		if len(f.value) > f.limit {
			return &FieldError{f.name, "is longer than the protocol allows"}
		}
		// saslauthd would use only the part before the NUL: "secret" of
		// "secret\x00anything".
		if strings.Contains(f.value, "\x00") {
			return &FieldError{f.name, "contains a NUL, which ends a string for saslauthd"}
		}
	}
	return nil
}

func appendCounted(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

// ReadRequest reads one request and no byte after it. It returns [ErrTooLong] for a string
// longer than [MaxField], [ErrMalformed] for other invalid strings, and the errors of in.
func ReadRequest(in io.Reader) (Request, error) {
	var r Request
	for _, s := range []*string{&r.Login, &r.Password, &r.Service, &r.Realm} {
		if err := readCounted(in, s); err != nil {
			return Request{}, err
		}
	}
	r.Service, r.Extended = strings.CutSuffix(r.Service, marker)
	if r.check() != nil {
		return Request{}, ErrMalformed
	}
	if !r.Extended {
		return r, nil
	}
	var client string
	if err := readCounted(in, &client); err != nil {
		return Request{}, err
	}
	if client != "" {
		addr, err := netip.ParseAddr(client)
		if err != nil {
			return Request{}, ErrMalformed
		}
		r.Client = addr.Unmap().WithZone("")
	}
	return r, nil
}

func readCounted(in io.Reader, s *string) error {
	n, err := readCount(in)
	if err != nil {
		return err
	}
	if n > MaxField {
		return ErrTooLong
	}
	return readText(in, n, s)
}

func readCount(in io.Reader) (int, error) {
	var count [2]byte
	_, err := io.ReadFull(in, count[:])
	return int(binary.BigEndian.Uint16(count[:])), err
}

func readText(in io.Reader, n int, s *string) error {
	text := make([]byte, n)
	if _, err := io.ReadFull(in, text); err != nil {
		// The count was complete, so this is not the regular end of the stream.
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	*s = string(text)
	return nil
}

// A Verdict is the first word of an answer.
type Verdict uint8

const (
	Neither Verdict = iota // a temporary error
	OK
	NO
)

// tryAgain is the word of a temporary error. saslauthd has none, and clients other than
// package pam treat it as NO.
const tryAgain = "TRYAGAIN"

func (v Verdict) String() string {
	switch v {
	case OK:
		return "OK"
	case NO:
		return "NO"
	}
	return tryAgain
}

// An Answer is one string after its length: a word and, after a blank, a text.
type Answer struct {
	Verdict Verdict
	Text    string
}

// Append appends the encoded answer. A text that is too long is cut.
func (a Answer) Append(b []byte) []byte {
	s := a.Verdict.String()
	if a.Text != "" {
		s += " " + a.Text
	}
	return appendCounted(b, s[:min(len(s), math.MaxUint16)])
}

// ReadAnswer reads an answer. If its first word is unknown, the verdict is Neither and the
// text is the whole string. Use [Clip] before a text is logged.
func ReadAnswer(in io.Reader) (Answer, error) {
	n, err := readCount(in)
	if err != nil {
		return Answer{}, err
	}
	if n >= minGreeting {
		return Answer{}, readForeign(in, n)
	}
	var s string
	if err := readText(in, n, &s); err != nil {
		return Answer{}, err
	}
	word, text, _ := strings.Cut(s, " ")
	switch word {
	case "OK":
		return Answer{OK, text}, nil
	case "NO":
		return Answer{NO, text}, nil
	case tryAgain:
		return Answer{Neither, text}, nil
	}
	return Answer{Neither, s}, nil
}

// minGreeting is the length that an answer would have if its first two bytes were blanks. An
// answer of saslauthd has less than 1024 bytes, and the greeting of another daemon begins with
// printable characters.
const minGreeting = 0x2020

// readForeign reads the greeting of another daemon, whose first two bytes are n.
func readForeign(in io.Reader, n int) error {
	text := binary.BigEndian.AppendUint16(nil, uint16(n))
	buffer := make([]byte, MaxField)
	for len(text) < MaxField {
		n, err := in.Read(buffer[:MaxField-len(text)])
		text = append(text, buffer[:n]...)
		if p, ok := authsocket.Recognize(text); ok {
			return &foreignError{peer: p}
		}
		if err != nil {
			return io.ErrUnexpectedEOF
		}
	}
	return fmt.Errorf("the daemon does not answer in the protocol of saslauthd: %s", Clip(string(text)))
}

// Clip returns a text of the peer in quotes and of bounded length, for the log.
func Clip(s string) string {
	const limit = 200 // bytes
	if len(s) > limit {
		return fmt.Sprintf("%+q...", s[:limit])
	}
	return fmt.Sprintf("%+q", s)
}
