package saslauthd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"strings"
)

// A Request is what a client sends on a connection, once: four counted strings,
// each with its length in front as 16 bits, the most significant byte first.
type Request struct {
	Login, Password, Service, Realm string

	// Extended is set if a fifth string follows, the client's address, and
	// that the sender understands the texts of the answers that package pam
	// writes. A plain saslauthd takes such a request as one of four strings.
	Extended bool
	Client   netip.Addr // only if Extended; the zero Addr is "unknown"
}

// marker ends the service of an extended request. A sender of four strings then
// waits for its answer and closes nothing, so whether a fifth is to come has to
// be known before it: neither a pause nor the end of the stream could show it.
// To saslauthd, which is written in C, the service ends at the NUL; it answers
// without having read what comes after the fourth string. No other client
// sends these bytes by accident, since its service is a C string as well. The
// number is the version: a reader of version 1 refuses a marker with another
// one, and no two readers take the same bytes for different things.
const marker = "\x00postern/1"

// MaxField is the longest string that [ReadRequest] accepts and that a store sends
// (see [Request.Fits]), in bytes. Saslauthd itself answers NO above 256 bytes;
// other daemons that speak its protocol accept longer passwords.
const MaxField = 1024

var (
	// ErrTooLong is returned by ReadRequest for a string longer than MaxField.
	ErrTooLong = errors.New("saslauthd: a string of the request is too long")

	// ErrMalformed is returned by ReadRequest for what cannot be meant.
	ErrMalformed = errors.New("saslauthd: malformed request")
)

// A FieldError names the string of a request that cannot be sent.
type FieldError struct{ Field, Why string }

func (e *FieldError) Error() string { return "saslauthd: the " + e.Field + " " + e.Why }

// Append appends r as it goes over the wire. It returns a [*FieldError] if r
// cannot be sent, and b as it was.
func (r Request) Append(b []byte) ([]byte, error) {
	if err := r.check(); err != nil {
		return b, err
	}
	service, tail := r.Service, []byte(nil)
	if r.Extended {
		service += marker
		tail = appendCounted(nil, r.client())
	}
	for _, s := range []string{r.Login, r.Password, service, r.Realm} {
		b = appendCounted(b, s)
	}
	return append(b, tail...), nil
}

// Fits returns a [*FieldError] if the other side would not accept r: if a string
// cannot be sent, or if login or password is longer than MaxField.
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
		most        int
	}{
		{"login", r.Login, math.MaxUint16},
		{"password", r.Password, math.MaxUint16},
		{"service", r.Service, math.MaxUint16 - len(marker)},
		{"realm", r.Realm, math.MaxUint16},
	} {
		if len(f.value) > f.most {
			return &FieldError{f.name, "is longer than the protocol allows"}
		}
		// Saslauthd would use only what is before the NUL: "secret" of
		// "secret\x00anything".
		if strings.Contains(f.value, "\x00") {
			return &FieldError{f.name, "holds a NUL, which ends a string for saslauthd"}
		}
	}
	return nil
}

// client is the fifth string.
func (r Request) client() string {
	if !r.Client.IsValid() {
		return ""
	}
	return r.Client.Unmap().WithZone("").String()
}

func appendCounted(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

// ReadRequest reads one request and not a byte more. A string longer than
// [MaxField] is [ErrTooLong], anything else that cannot be meant
// [ErrMalformed]; other errors are those of in.
func ReadRequest(in io.Reader) (Request, error) {
	var r Request
	for _, s := range []*string{&r.Login, &r.Password, &r.Service, &r.Realm} {
		if err := readCounted(in, s); err != nil {
			return Request{}, err
		}
	}
	r.Service, r.Extended = strings.CutSuffix(r.Service, marker)
	if r.Extended {
		if err := r.readClient(in); err != nil {
			return Request{}, err
		}
	}
	if r.check() != nil {
		return Request{}, ErrMalformed
	}
	return r, nil
}

func (r *Request) readClient(in io.Reader) error {
	var text string
	if err := readCounted(in, &text); err != nil || text == "" {
		return err
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return ErrMalformed
	}
	r.Client = addr.Unmap().WithZone("")
	return nil
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
		// The count was there: this end is no clean one.
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
	Neither Verdict = iota // no answer is known
	OK
	NO
)

// tryAgain is the word of an answer that is neither. Saslauthd has none, and
// clients other than ours would take it for a NO.
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

// An Answer is what comes back: one counted string, a word and, after a blank,
// a text.
type Answer struct {
	Verdict Verdict
	Text    string
}

// Append appends a as it goes over the wire. A text that is too long is cut.
func (a Answer) Append(b []byte) []byte {
	s := a.Verdict.String()
	if a.Text != "" {
		s += " " + a.Text
	}
	return appendCounted(b, s[:min(len(s), math.MaxUint16)])
}

// ReadAnswer reads an answer. What begins with neither OK nor NO as a whole
// word comes back as Neither, with all of it as the text. No text is fit for a
// log before [Clip].
func ReadAnswer(in io.Reader) (Answer, error) {
	n, err := readCount(in)
	if err != nil {
		return Answer{}, err
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

// Clip makes a text of the other side fit for a log line: quoted, and of bounded
// length.
func Clip(s string) string {
	const most = 200 // bytes
	if len(s) > most {
		return fmt.Sprintf("%+q...", s[:most])
	}
	return fmt.Sprintf("%+q", s)
}
