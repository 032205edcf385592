// Package neterr explains why a connection to a server failed: the one cause, and the next
// step for the administrator. The next hops, directories and databases have the same mistakes:
// a wrong port, a name that does not exist, TLS on one side only, a certificate for another
// name or of another authority.
//
//	server := neterr.Server{Name: "LDAP server", Address: "ldap.example.org:636", AddressKey: "server_host", CAKey: "ca_file"}
//	err = server.Explain(neterr.Handshake, err)
//	// the certificate is for mail.example.org, and not for ldap.example.org; write ...
//
// The caller knows how far the connection came, which is the [Phase], and how its configuration
// names the address and the file of authorities.
//
//	neterr       the phases, and the errors of connecting
//	certificate  the errors of TLS
//	protocol     what a server speaks, from its first bytes
//
// Texts of the other side (the names in a certificate) are made printable and shortened. No
// explanation contains what a caller has sent.
package neterr

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"

	"postern/internal/fileperm"
)

// A Server is what a connection leads to, in the words of the configuration.
type Server struct {
	Name       string // what it is, such as "LDAP server"
	Address    string // HOST:PORT, or the path of a Unix socket
	AddressKey string // the key with the address, such as "server_host"

	Host   string // the name that the certificate must cover
	CAFile string // the file of trusted authorities; empty for those of the system
	CAKey  string // its key

	// What to do if the server speaks no TLS where it is expected, and if it expects TLS from
	// the first byte where none is spoken. They begin with a verb. Empty means that the port
	// is wrong.
	WithoutTLS, WithTLS string
}

// A Phase is how far a connection came before the error.
type Phase int

// The phases.
const (
	Dial      Phase = iota // resolving the name and connecting
	Handshake              // TLS
	Reply                  // waiting for what the server sends first, or for its first response
)

// An Error is an explained error.
type Error struct {
	Cause string // what is wrong, with the value
	Step  string // what to do, in the imperative
	Err   error  // the error that is explained
}

func (e *Error) Error() string { return e.Cause + "; " + e.Step }
func (e *Error) Unwrap() error { return e.Err }

// Explain returns an [*Error] if the cause of err is known, and otherwise err. It adds the path
// that is the cause to errors of Unix sockets. An error that is explained already, or nil, is
// returned as it is.
func (s Server) Explain(p Phase, err error) error {
	if _, done := errors.AsType[*Error](err); done || err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	var e *Error
	switch p {
	case Dial:
		e = s.explainDial(err)
	case Handshake:
		e = s.explainHandshake(err)
	case Reply:
		e = s.explainReply(err)
	}
	if e == nil {
		return fileperm.ExplainDial(err)
	}
	e.Err = err
	return e
}

// explainDial returns nil for an unknown cause, and for a Unix socket.
func (s Server) explainDial(err error) *Error {
	if name, ok := errors.AsType[*net.DNSError](err); ok {
		return s.explainName(name)
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Addr != nil && op.Addr.Network() == "unix" {
		return nil
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return &Error{
			Cause: fmt.Sprintf("nothing listens on %s (connection refused)", s.Address),
			Step:  fmt.Sprintf("start the %s there, or correct host and port in %s", s.Name, s.AddressKey),
		}
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return &Error{
			Cause: fmt.Sprintf("this machine has no route to %s", s.Address),
			Step:  fmt.Sprintf("correct the address in %s, or the network of this machine (ip route get ADDRESS)", s.AddressKey),
		}
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return &Error{
			Cause: fmt.Sprintf("this machine does not allow postern to connect to %s", s.Address),
			Step:  "permit it in the local firewall, and in the options IPAddressDeny and RestrictAddressFamilies of the service",
		}
	case isTimeout(err):
		return &Error{
			Cause: fmt.Sprintf("%s does not answer the connection request in time", s.Address),
			Step:  "open the port in the firewalls between, or start the host",
		}
	}
	return nil
}

func (s Server) explainName(e *net.DNSError) *Error {
	if e.IsNotFound {
		return &Error{
			Cause: fmt.Sprintf("the host name %q does not exist (no such host)", clean(e.Name)),
			Step:  fmt.Sprintf("correct it in %s, or add it to the DNS or to /etc/hosts", s.AddressKey),
		}
	}
	resolver := "the resolver"
	if e.Server != "" {
		resolver += " " + e.Server
	}
	return &Error{
		Cause: fmt.Sprintf("%s gives no answer about the host name %q (%s)", resolver, clean(e.Name), clean(e.Err)),
		Step:  "name a resolver that works in /etc/resolv.conf",
	}
}

// explainReply explains the end of a connection on which the server has sent nothing.
func (s Server) explainReply(err error) *Error {
	step := fmt.Sprintf("read the log of the %s there, or correct the port in %s", s.Name, s.AddressKey)
	switch {
	case isTimeout(err):
		return &Error{Cause: fmt.Sprintf("%s accepts the connection, and does not answer in time", s.Address), Step: step}
	case isClosed(err) && s.WithTLS != "":
		return &Error{
			Cause: fmt.Sprintf("the server at %s closes the connection without an answer (EOF), as one does that expects TLS from the first byte", s.Address),
			Step:  s.WithTLS,
		}
	case isClosed(err):
		return &Error{Cause: fmt.Sprintf("the server at %s closes the connection without an answer (EOF)", s.Address), Step: step}
	}
	return nil
}

// Foreign explains an answer in another protocol; first are its first bytes. TLS where none is
// expected is such an answer, too.
func (s Server) Foreign(first []byte, err error) error {
	switch protocol := Protocol(first); {
	case protocol == "":
		return err
	case protocol == protocolTLS && s.WithTLS != "":
		return &Error{Cause: fmt.Sprintf("the server at %s expects TLS from the first byte on this port", s.Address), Step: s.WithTLS, Err: err}
	default:
		return &Error{
			Cause: fmt.Sprintf("the server at %s speaks %s on this port", s.Address, protocol),
			Step:  fmt.Sprintf("correct the port in %s to that of the %s", s.AddressKey, s.Name),
			Err:   err,
		}
	}
}

// isClosed reports whether the other side has closed the connection.
func isClosed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// isTimeout reports whether the time for the connection is over.
func isTimeout(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}
