package auth

import (
	"errors"

	"postern/internal/text"
)

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
	Login  string // as the client gave it, made safe for a log line by the mechanism
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

// WithLogin returns the error of a backend as a *Failure or an *Unavailable that
// names the login, made safe for a log line. The backend's own value is not changed, as
// it may be shared. It is not for [ErrMechanism] and [ErrMalformed].
func WithLogin(err error, login string) error { return withLogin(err, login) }

// asFailure returns err as a *Failure, or nil if it says anything but "no".
func asFailure(err error) *Failure {
	f, _ := errors.AsType[*Failure](err)
	return f
}

// Unavailable is a temporary error (454 4.7.0) together with what the log wants
// to know: nobody could tell whether the login is right. A store may return
// any other error instead; the exchanges of [Local] put it into this type.
type Unavailable struct {
	Store string // empty if no store was asked
	Login string // as the client gave it, made safe for a log line by the mechanism
	Err   error

	// Refused is what another store has said of the login that Store could not
	// tell of. It is for the log and the Throttle; to the client it is no answer.
	Refused *Failure
}

func (u *Unavailable) Error() string {
	s := "auth: no answer"
	if u.Store != "" {
		s += " (" + u.Store + ")"
	}
	return s + ": " + u.Err.Error()
}

func (u *Unavailable) Unwrap() error { return u.Err }

// maxLogName is enough for the logins of people, and little in a log line.
const maxLogName = 128 // bytes

// logName makes a login safe for a log line and bounds its length.
func logName(login string) string { return text.Shorten(text.Printable(login, '?'), maxLogName) }
