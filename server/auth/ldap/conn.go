package ldap

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/go-ldap/ldap/v3"

	"postern/server/auth"
)

// A purpose is what a connection is for. The two kinds never mix.
type purpose int

const (
	forSearches purpose = iota // bound as the service account, or as nobody
	forUsers                   // users are bound, and bound away again
	purposes
)

// A conn is one connection. It is used by one goroutine at a time.
type conn struct {
	wire    *wire
	ldap    *ldap.Conn
	purpose purpose
	reused  bool        // has been in the pool
	bound   bool        // as a user
	broken  bool        // not to be used again
	expiry  *time.Timer // while it is in the pool
}

// within runs op and breaks the connection off when ctx ends first: the library
// knows no contexts.
func (c *conn) within(ctx context.Context, op func(*conn) error) error {
	c.wire.renew()
	stop := context.AfterFunc(ctx, c.wire.abort)
	err := op(c)
	healthy := answered(err)
	if !healthy || c.forget() != nil {
		c.broken = true
	}
	if !stop() {
		c.broken = true
		if !healthy {
			return fmt.Errorf("%w (%w)", context.Cause(ctx), err)
		}
	}
	return err
}

// bindUser checks the password of an entry.
func (c *conn) bindUser(dn, password string, refused auth.FailureKind) error {
	// RFC 4513, sections 5.1.1 and 5.1.2: without a name or a password a bind
	// succeeds and proves nothing.
	if dn == "" || password == "" {
		return &auth.Failure{Kind: auth.BadPassword, Store: Kind, Reason: "empty name or password"}
	}
	request := ldap.NewSimpleBindRequest(dn, password, []ldap.Control{ldap.NewControlBeheraPasswordPolicy()})
	result, err := c.ldap.SimpleBind(request)
	c.bound = err == nil
	return newBindAnswer(result, err).judge(err, refused)
}

// forget makes a connection nobody's again, as a refused bind does. RFC 4511, section 4.2.1: it is from
// the moment when the server gets the request, even if the server does not like
// anonymous binds and answers with an error.
func (c *conn) forget() error {
	if !c.bound {
		return nil
	}
	c.bound = false
	if err := c.ldap.UnauthenticatedBind(""); !answered(err) {
		return err
	}
	return nil
}

// bindService makes a new connection the service account's.
func (c *conn) bindService(a account) error {
	if c.purpose != forSearches || a.dn == "" {
		return nil
	}
	err := c.ldap.Bind(a.dn, a.password.text)
	if ldap.IsErrorWithCode(err, ldap.LDAPResultInvalidCredentials) {
		return &misconfigured{"the server refuses bind_dn with the password in bind_password_file", err}
	}
	return err
}

// byeTime is how long a server may take to read that we leave.
const byeTime = time.Second

// close ends the connection; RFC 4511, section 4.3 wants an unbind request.
func (c *conn) close() {
	if c.broken {
		c.wire.Close()
	} else {
		// Without deadline the socket of a server that hangs would be waited for.
		_ = c.wire.SetDeadline(time.Now().Add(byeTime)) // if it fails, so does what follows
		_ = c.ldap.Unbind()                             // as good as closed
	}
	c.ldap.Close()
}

// An account is the service account.
type account struct {
	dn       string
	password secret
}

// A secret cannot be printed or logged by accident.
type secret struct{ text string }

func (secret) String() string   { return "(hidden)" }
func (secret) GoString() string { return "(hidden)" }

// A dialer makes connections to one server.
type dialer struct {
	url      URL
	startTLS bool
	tls      *tls.Config
	account  account
}

// dial connects, secures and, for searches, binds.
func (d *dialer) dial(ctx context.Context, p purpose) (*conn, error) {
	raw, err := new(net.Dialer).DialContext(ctx, d.url.Network(), d.url.Address)
	if err != nil {
		return nil, err
	}
	w := newWire(raw)
	secured, err := d.secure(ctx, w)
	if err != nil {
		raw.Close()
		return nil, err
	}
	c := &conn{wire: w, purpose: p, ldap: ldap.NewConn(secured, d.url.Scheme == schemeTLS)}
	c.ldap.Start()
	if err := c.within(ctx, d.introduce); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (d *dialer) secure(ctx context.Context, w *wire) (net.Conn, error) {
	if d.url.Scheme != schemeTLS {
		return w, nil
	}
	t := tls.Client(w, d.tls)
	return t, t.HandshakeContext(ctx)
}

func (d *dialer) introduce(c *conn) error {
	if d.startTLS {
		// RFC 4513, section 3.1.2: if this fails, nothing more is said.
		if err := c.ldap.StartTLS(d.tls); err != nil {
			c.broken = true
			return fmt.Errorf("StartTLS: %w", err)
		}
	}
	return c.bindService(d.account)
}

// most is what a server may send for one request, in bytes. The answers that we
// ask for are much smaller; so is the chain of certificates.
const most = 256 << 10

var errTooMuch = errors.New("the server sends too much")

// A wire is the network connection beneath TLS and the library. Both read from
// it in goroutines of their own, so that it is where a bound and an end are
// set.
type wire struct {
	net.Conn
	left atomic.Int64 // bytes
}

func newWire(raw net.Conn) *wire {
	w := &wire{Conn: raw}
	w.renew()
	return w
}

// renew allows the answer to one more request.
func (w *wire) renew() { w.left.Store(most) }

// abort makes every read and write fail from now on.
func (w *wire) abort() { _ = w.SetDeadline(time.Unix(1, 0)) } // fails on a closed one only

// Read implements net.Conn.
func (w *wire) Read(b []byte) (int, error) {
	left := w.left.Load()
	if left <= 0 {
		return 0, errTooMuch
	}
	n, err := w.Conn.Read(b[:min(int64(len(b)), left)])
	w.left.Add(-int64(n))
	return n, err
}
