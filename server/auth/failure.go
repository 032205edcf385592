package auth

import (
	"errors"

	"postern/internal/text"
)

// ErrMechanism is returned by Provider.Start for a mechanism that is not offered (RFC
// 4954, section 4: 504 5.5.4).
var ErrMechanism = errors.New("auth: mechanism not offered")

// ErrMalformed is returned by Exchange.Next for a response that does not have the form
// that the mechanism demands (501 5.5.2). It counts as an attempt.
var ErrMalformed = errors.New("auth: malformed response")

// A FailureKind is the reason why a login was refused, as far as the store knows it.
type FailureKind uint8

const (
	NoSuchUser  FailureKind = iota // the next store is asked
	Unknowable                     // the backend gave no reason; the next store is asked
	BadPassword                    // ends the search
	Disabled                       // only after the right password
	Expired                        // only after the right password
	NotAllowed                     // the password is right, but the user may not act as the authorization identity
)

var kindNames = [...]string{"no such user", "refused", "wrong password", "account disabled", "password expired", "not allowed"}

func (k FailureKind) String() string { return kindNames[k] }

// A Failure is the only error that refuses a login; every other error is temporary. A
// client that does not know the right password gets the same text for every kind, so that
// it cannot find out which accounts exist. Store and Reason are for the log and contain no
// secret.
type Failure struct {
	Kind   FailureKind
	Store  string
	Login  string // as the client gave it, made safe for a log line by the mechanism
	Reason string // more detail than Kind, or empty
	Err    error

	// Counted is set if the backend counts wrong passwords and locks accounts, so that no
	// other form of the same password must be tried.
	Counted bool
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

// asFailure returns err as a *Failure, or nil if it is none.
func asFailure(err error) *Failure {
	f, _ := errors.AsType[*Failure](err)
	return f
}

// An Unavailable is a temporary error (454 4.7.0) with the details for the log: no store
// accepted the login, and one that might have did not answer. A store may return any other
// error instead; the exchanges of [Local] put it into this type.
type Unavailable struct {
	Store string // empty if no store was asked
	Login string // as the client gave it, made safe for a log line by the mechanism
	Err   error

	// Refused is the answer of another store, while Store did not answer, or of the store
	// to a known client that has to wait as if it were unknown. It is for the log and the
	// throttle; the client does not see it.
	Refused *Failure

	// Unanswered is set if a store has received the password and not answered, although
	// it answers other logins: see [Asking].
	Unanswered bool
}

func (u *Unavailable) Error() string {
	s := "auth: no answer"
	if u.Store != "" {
		s += " (" + u.Store + ")"
	}
	return s + ": " + u.Err.Error()
}

func (u *Unavailable) Unwrap() error { return u.Err }

// WithLogin returns err as a *Failure or an *Unavailable that names the login, made safe
// for a log line. It is not for [ErrMechanism] and [ErrMalformed]. [ErrPending] stays as it is.
func WithLogin(err error, login string) error {
	if errors.Is(err, ErrPending) {
		return ErrPending
	}
	return annotate(err, func(_, l *string) { *l = logName(login) })
}

// annotate returns err as a *Failure or an *Unavailable, after set has changed its fields
// Store and Login. The value of the backend is not changed, as it may be shared.
func annotate(err error, set func(store, login *string)) error {
	if f := asFailure(err); f != nil {
		annotated := *f
		set(&annotated.Store, &annotated.Login)
		return &annotated
	}
	annotated := asUnavailable(err)
	set(&annotated.Store, &annotated.Login)
	return annotated
}

// asUnavailable returns err as a new *Unavailable.
func asUnavailable(err error) *Unavailable {
	if u, ok := errors.AsType[*Unavailable](err); ok {
		copied := *u
		return &copied
	}
	return &Unavailable{Err: err}
}

// maxLogName is enough for the logins of people, and short in a log line.
const maxLogName = 128 // bytes

// logName makes a login safe for a log line and bounds its length.
func logName(login string) string { return text.Shorten(text.Printable(login, '?'), maxLogName) }
