package ldapclient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"

	"postern/internal/neterr"
)

// A Purpose is the use of a connection. A connection never changes its purpose.
type Purpose int

// The purposes of connections.
const (
	ForSearches Purpose = iota // bound as the service account, or anonymous
	ForBinds                   // anonymous until the caller binds it
	purposes
)

// A Conn is one connection. It is used by one goroutine at a time.
type Conn struct {
	raw     *abortableConn
	checked *checkedConn // over raw, or over TLS
	ldap    *ldap.Conn
	dialer  *dialer
	purpose Purpose
	reused  bool        // was in the pool
	bound   bool        // by Bind
	broken  bool        // must not be used again
	expiry  *time.Timer // while it is in the pool
}

// within calls op, and aborts the connection if ctx ends before, since the library has no
// contexts.
func (c *Conn) within(ctx context.Context, op func(*Conn) error) error {
	c.raw.allowed.renew()
	stop := context.AfterFunc(ctx, c.raw.abort)
	err := op(c)
	healthy := answered(err)
	if !healthy || c.unbind() != nil {
		c.broken = true
	}
	if !stop() {
		c.broken = true
		if !healthy {
			err = fmt.Errorf("%w (%w)", context.Cause(ctx), err)
		}
	}
	return c.explain(err)
}

// explain adds the cause to the error of a connection on which the server has not answered yet.
// Later errors do not come from the configuration.
func (c *Conn) explain(err error) error {
	if answered(err) || c.checked.answers.Load() || errors.Is(err, context.Canceled) || isUnanswered(err) {
		return err
	}
	if read := c.checked.failure.Load(); read != nil && !errors.Is(err, context.DeadlineExceeded) {
		if foreign, ok := errors.AsType[*foreignError](*read); ok {
			return c.dialer.peer.Foreign(foreign.first, err)
		}
		if explained := c.dialer.peer.Explain(neterr.Reply, *read); explained != *read {
			return explained
		}
	}
	return c.dialer.peer.Explain(neterr.Reply, err)
}

// Bind binds a connection that is [ForBinds] as an entry, until it is released. dn and password
// must not be empty: RFC 4513, sections 5.1.1 and 5.1.2, makes that a bind that succeeds without
// a check. An error that the server has sent is an *ldap.Error. If the request was sent and not
// answered, [Client.Do] does not call its op again: the server may count a wrong password.
func (c *Conn) Bind(dn, password string, controls ...ldap.Control) (*ldap.SimpleBindResult, error) {
	sent := c.raw.sent.Load()
	result, err := c.ldap.SimpleBind(ldap.NewSimpleBindRequest(dn, password, controls))
	c.bound = err == nil
	if !answered(err) && c.raw.sent.Load() != sent {
		err = &unansweredError{err}
	}
	return result, err
}

// An unansweredError is that of a bind that the server may have received.
type unansweredError struct{ err error }

func (e *unansweredError) Error() string { return e.err.Error() }
func (e *unansweredError) Unwrap() error { return e.err }

// isUnanswered reports whether a bind must not be repeated.
func isUnanswered(err error) bool {
	_, ok := errors.AsType[*unansweredError](err)
	return ok
}

// unbind makes the connection anonymous after a bind; a refused bind needs none. RFC 4511, section 4.2.1: it is anonymous from the moment the server receives the
// request, even if the server refuses anonymous binds.
func (c *Conn) unbind() error {
	if !c.bound {
		return nil
	}
	c.bound = false
	if err := c.ldap.UnauthenticatedBind(""); !answered(err) {
		return err
	}
	return nil
}

// unbindTime is how long a server may take to read the unbind request.
const unbindTime = time.Second

// close ends the connection, with an unbind request (RFC 4511, section 4.3) if it is not
// broken.
func (c *Conn) close() {
	if c.broken {
		c.raw.Close()
	} else {
		// Without a deadline Unbind would wait for the socket of a server that hangs.
		_ = c.raw.SetDeadline(time.Now().Add(unbindTime)) // if it fails, Unbind fails, too
		_ = c.ldap.Unbind()                               // the connection is closed in any case
	}
	c.ldap.Close()
}

// An account is the service account.
type account struct {
	dn       string // or another name; see [Account]
	password secret
	file     string // with the password
}

// A secret is not shown when it is printed or logged.
type secret struct{ text string }

func (secret) String() string   { return "(hidden)" }
func (secret) GoString() string { return "(hidden)" }

// A dialer opens connections to one server.
type dialer struct {
	url      URL
	peer     neterr.Server // the same server, for errors
	startTLS bool
	tls      *tls.Config
	account  account
}

// dial connects, begins TLS and, for searches, binds.
func (d *dialer) dial(ctx context.Context, p Purpose) (*Conn, error) {
	n, err := new(net.Dialer).DialContext(ctx, d.url.Network(), d.url.Address)
	if err != nil {
		return nil, d.peer.Explain(neterr.Dial, err)
	}
	raw := &abortableConn{Conn: n}
	raw.allowed.renew()
	secured, err := d.secure(ctx, raw)
	if err != nil {
		n.Close()
		return nil, err
	}
	checked := newCheckedConn(secured, &raw.allowed)
	c := &Conn{raw: raw, checked: checked, dialer: d, purpose: p, ldap: ldap.NewConn(checked, secured != raw)}
	c.ldap.Start()
	if err := c.within(ctx, d.prepare); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// secure begins TLS: from the first byte, or with StartTLS. It returns raw if there is to be
// none.
func (d *dialer) secure(ctx context.Context, raw *abortableConn) (net.Conn, error) {
	if d.url.Scheme != schemeTLS && !d.startTLS {
		return raw, nil
	}
	if d.startTLS {
		if err := startTLS(ctx, raw); err != nil {
			return nil, d.explainStartTLS(err)
		}
	}
	t := tls.Client(raw, d.tls)
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, d.peer.Explain(neterr.Handshake, err)
	}
	return t, nil
}

// startTLS makes the request of RFC 4511, section 4.14.1. The library could make it, but would
// then read from below TLS. No byte after the response is read: it belongs to TLS.
func startTLS(ctx context.Context, raw *abortableConn) error {
	defer context.AfterFunc(ctx, raw.abort)()
	err := askForTLS(raw)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w (%w)", context.Cause(ctx), err)
	}
	return err
}

func askForTLS(raw *abortableConn) error {
	const id, oid = 1, "1.3.6.1.4.1.1466.20037"
	request := ber.NewSequence("")
	request.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, id, ""))
	operation := ber.Encode(ber.ClassApplication, ber.TypeConstructed, ldap.ApplicationExtendedRequest, nil, "")
	operation.AppendChild(ber.NewString(ber.ClassContext, ber.TypePrimitive, 0, oid, ""))
	request.AppendChild(operation)
	if _, err := raw.Write(request.Bytes()); err != nil {
		return err
	}
	message, err := readMessage(raw, &raw.allowed)
	if err != nil {
		return err
	}
	response, err := ber.DecodePacketErr(message)
	if err != nil {
		return err
	}
	if len(response.Children) < 2 || response.Children[0].Value != int64(id) || response.Children[1].Tag != ldap.ApplicationExtendedResponse {
		return errNotAMessage
	}
	return ldap.GetLDAPError(response)
}

// prepare binds a connection for searches as the service account.
func (d *dialer) prepare(c *Conn) error {
	if c.purpose != ForSearches || d.account.dn == "" {
		return nil
	}
	err := c.ldap.Bind(d.account.dn, d.account.password.text)
	return d.explainBind(err)
}

// An abortableConn is the network connection below TLS and the library. Both read from it
// in their own goroutines, so the size limit and the abort are implemented here.
type abortableConn struct {
	net.Conn
	allowed allowance
	sent    atomic.Int64 // bytes
}

// Write implements net.Conn.
func (c *abortableConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.sent.Add(int64(n))
	return n, err
}

// abort makes all further reads and writes fail.
func (c *abortableConn) abort() { _ = c.SetDeadline(time.Unix(1, 0)) } // fails only if closed

// Read implements net.Conn.
func (c *abortableConn) Read(b []byte) (int, error) {
	left := c.allowed.bytes.Load()
	if left <= 0 {
		return 0, errTooMuch
	}
	n, err := c.Conn.Read(b[:min(int64(len(b)), left)])
	c.allowed.bytes.Add(-int64(n))
	return n, err
}
