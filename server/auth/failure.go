package auth

import "errors"

// ErrMechanism is returned by Provider.Start for a mechanism that is not
// offered (RFC 4954, section 4: 504 5.5.4).
var ErrMechanism = errors.New("auth: mechanism not offered")

// ErrMalformed is returned by Exchange.Next for a response that does not have
// the form that the mechanism asks for (501 5.5.2). It counts as an attempt.
var ErrMalformed = errors.New("auth: malformed response")

// FailureKind says why a login was refused, as far as the store knows.
type FailureKind uint8

const (
	NoSuchUser  FailureKind = iota // the next store may know better
	Unknowable                     // the backend says no without saying why; the next store may know better
	BadPassword                    // ends the search
	Disabled                       // only told to one who gave the right password
	Expired                        // only told to one who gave the right password
	NotAllowed                     // the password is right, but not for what was asked (authorization identity)
)

var kindNames = [...]string{"no such user", "refused", "wrong password", "account disabled", "password expired", "not allowed"}

func (k FailureKind) String() string { return kindNames[k] }

// A Failure is the only error that means "no". Whatever its kind, the client
// sees one text for all, so that nobody learns which accounts exist; Store and
// Reason are for the log and never hold a secret.
type Failure struct {
	Kind   FailureKind
	Store  string
	Reason string // more than Kind says, or empty
	Err    error
}

func (f *Failure) Error() string {
	s := "auth: " + f.Kind.String()
	if f.Store != "" {
		s += " (" + f.Store + ")"
	}
	if f.Reason != "" {
		s += ": " + f.Reason
	}
	return s
}

func (f *Failure) Unwrap() error { return f.Err }
