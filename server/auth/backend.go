package auth

import (
	"context"
	"net"

	"postern/internal/access"
	"postern/server/auth/hash"
)

// A Backend is a value with at least one ability of a store, each of which is an
// interface of this package: [PasswordVerifier], [KeyStore]. It may have these
// methods, too:
//
//	Check(ctx context.Context) error  // reports what prevents logins, for "postern check"
//	Reload(ctx context.Context) error // reads the files again
//	Close() error                     // releases connections and goroutines
//	Remarks() []Remark                // what is worth knowing of the users, for "postern check"
//	IgnoresDomain() bool              // a user may log in with any domain
type Backend any

// A Remark is about users or their passwords, and prevents no login.
type Remark struct {
	Warning bool // the administrator should change something
	Text    string
}

// A BackendConfig is the configuration of one kind of backend: the keys of
// [[auth.stores]] that only this kind has. Its package implements it by a pointer,
// *ldap.Config for example, so that a new kind needs its package and one row in the
// table of kinds.
type BackendConfig interface {
	// Validate calls bad for each value that is not valid, with its key relative
	// to the table.
	Validate(bad func(key, why string))

	// Open returns the backend. The configuration is valid. A server that cannot
	// be reached is no error, since it may be starting; an unreadable file is one.
	Open(env *Env) (Backend, error)

	// Location returns where the users are, for messages to the administrator: a
	// path, a URL, a service.
	Location() string

	// Access adds the files and hosts that the backend uses to list. key returns
	// the full name of a key of the table, "auth.stores[0].path" for "path".
	Access(key func(string) string, list *access.List)
}

// An Env is what backends share, with the key fold of the store that is opened. What it points
// to outlives them.
type Env struct {
	// Fold has been applied to every login that the backend gets. A backend that compares
	// logins itself applies it to the other side.
	Fold Fold

	Checker *hash.Checker
	Events  Events

	// PAM returns the function that connects to the PAM helper that this process
	// has started, or an error if that helper does not serve service. It is nil if no
	// helper was started.
	PAM func(service string) (dial func(context.Context) (net.Conn, error), err error)
}
