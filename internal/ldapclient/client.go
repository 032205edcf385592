package ldapclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"postern/internal/fileperm"
	"postern/internal/pemfile"
	"postern/internal/semaphore"
)

const (
	// A server that has failed is asked after the others for this time.
	avoidTime = 15 * time.Second

	// The time for an answer if the caller's ctx has no deadline.
	defaultAnswerTime = 10 * time.Second

	// TLS sessions to resume, for each server.
	tlsSessions = 4
)

// A Client has connections to a list of equivalent servers. It may be used by many goroutines
// at once, and must be closed.
type Client struct {
	servers []*server
	events  Events
}

// A server is one server of a client.
type server struct {
	dialer dialer
	pool   *pool

	mu        sync.Mutex
	avoidTill time.Time // zero: the last request was answered
}

// New returns a client. It reads the password and the certificates of cfg, which is valid. It
// does not connect, so it succeeds while the servers are down.
func New(cfg Config, events Events) (*Client, error) {
	service, err := readAccount(cfg)
	if err != nil {
		return nil, err
	}
	authorities, err := readAuthorities(cfg.CAFile)
	if err != nil {
		return nil, err
	}
	client := &Client{events: events}
	for _, u := range cfg.ServerHost {
		client.servers = append(client.servers, &server{
			dialer: dialer{
				url:      u,
				peer:     newPeer(u, cfg.CAFile),
				startTLS: u.Scheme == schemePlain && (cfg.StartTLS || !u.IsLocal()),
				tls: &tls.Config{
					ServerName:         u.Host,
					RootCAs:            authorities,
					InsecureSkipVerify: !cfg.Verify && u.IsLocal(),
					MinVersion:         tls.VersionTLS12, // RFC 8996
					ClientSessionCache: tls.NewLRUClientSessionCache(tlsSessions),
				},
				account: service,
			},
			pool: &pool{limit: cfg.Connections, idleTime: cfg.IdleTime, slots: semaphore.NewShared(cfg.Connections)},
		})
	}
	return client, nil
}

func readAccount(cfg Config) (account, error) {
	if cfg.BindDN.text == "" {
		return account{}, nil
	}
	password, err := fileperm.ReadSecretLine(cfg.BindPasswordFile)
	if err != nil {
		return account{}, fmt.Errorf("bind_password_file: %w", err)
	}
	return account{cfg.BindDN.text, secret{password}, cfg.BindPasswordFile}, nil
}

// readAuthorities returns nil for the authorities of the system.
func readAuthorities(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pool, _, err := pemfile.ReadAuthorities(file) // the warnings are for "postern check"
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	return pool, nil
}

// Close closes the idle connections now, and the others when they are released.
func (c *Client) Close() {
	for _, s := range c.servers {
		s.pool.close()
	}
}

// Search returns the entries that q matches, with the rights of the service account. If all
// connections are in use, turn is the place of the request among those that wait; none of
// its holders has more than a quarter of the connections.
func (c *Client) Search(ctx context.Context, turn semaphore.Turn, q Query) (found []Entry, err error) {
	err = c.Do(ctx, ForSearches, turn, func(conn *Conn) error {
		found, err = conn.Search(q)
		return err
	})
	return found, err
}

// Do calls op with a connection to the first server, and then to the others, until one has
// answered. Servers that have failed recently are last. The servers share the remaining
// time of ctx, and turn is as in [Client.Search].
//
// A server has answered if op returns nil, a [ConfigError], or an error that the server has
// sent, other than "busy" and "unavailable". Every other error is taken for a failure of the
// server, so a result of the caller must not be one. op must not keep the connection, and may
// be called several times, but not after a [Conn.Bind] that has no answer.
func (c *Client) Do(ctx context.Context, p Purpose, turn semaphore.Turn, op func(*Conn) error) error {
	var errs []error
	order := c.order(time.Now())
	for i, s := range order {
		err := s.try(ctx, len(order)-i, p, turn, op)
		if answered(err) {
			c.recovered(s)
			return err
		}
		if ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return err // the caller has cancelled the request
		}
		errs = append(errs, err)
		c.failed(s, err)
		if isUnanswered(err) {
			break
		}
	}
	return errors.Join(errs...)
}

// order returns the servers, those that have failed recently last.
func (c *Client) order(now time.Time) []*server {
	order := make([]*server, 0, len(c.servers))
	var avoided []*server
	for _, s := range c.servers {
		if s.avoided(now) {
			avoided = append(avoided, s)
		} else {
			order = append(order, s)
		}
	}
	return slices.Concat(order, avoided)
}

// avoided reports whether the server has failed recently. After avoidTime one request
// tries it, while it is avoided by the others.
func (s *server) avoided(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.avoidTill.IsZero() {
		return false
	}
	if now.Before(s.avoidTill) {
		return true
	}
	s.avoidTill = now.Add(avoidTime)
	return false
}

// failed makes the server avoided, unless only its connections are all in use.
func (c *Client) failed(s *server, err error) {
	if _, busy := errors.AsType[*busyError](err); busy {
		return
	}
	s.pool.closeIdle(true)
	s.mu.Lock()
	wasUp := s.avoidTill.IsZero()
	s.avoidTill = time.Now().Add(avoidTime)
	s.mu.Unlock()
	if wasUp {
		c.events.ServerDown(s.dialer.url.String(), err)
	}
}

func (c *Client) recovered(s *server) {
	s.mu.Lock()
	was := !s.avoidTill.IsZero()
	s.avoidTill = time.Time{}
	s.mu.Unlock()
	if was {
		c.events.ServerUp(s.dialer.url.String())
	}
}

// try calls op for one server, which shares the time with the servers that are left. A
// connection from the pool may have failed while it was idle, so op is called again with a
// new one.
func (s *server) try(ctx context.Context, left int, p Purpose, turn semaphore.Turn, op func(*Conn) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, share(ctx, left), &timeoutError{s.dialer.url})
	defer cancel()
	reused, err := s.once(ctx, p, turn, op)
	if reused && !answered(err) && !isUnanswered(err) && ctx.Err() == nil {
		s.pool.closeIdle(true)
		_, err = s.once(ctx, p, turn, op)
	}
	if answered(err) {
		return err
	}
	return fmt.Errorf("%s: %w", s.dialer.url, err)
}

// share returns the time for the next of the servers that are left.
func share(ctx context.Context, left int) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return defaultAnswerTime
	}
	return time.Until(deadline) / time.Duration(left)
}

// once calls op once, and reports whether the connection was from the pool.
func (s *server) once(ctx context.Context, p Purpose, turn semaphore.Turn, op func(*Conn) error) (reused bool, err error) {
	if err := s.pool.acquire(ctx, turn); err != nil {
		return false, &busyError{err}
	}
	c := s.pool.take(p)
	defer func() { s.pool.release(c, turn) }()
	if c == nil {
		if c, err = s.dialer.dial(ctx, p); err != nil {
			return false, err
		}
	}
	return c.reused, c.within(ctx, op)
}

// A timeoutError is the cause if a server has not answered in its share of the time.
type timeoutError struct{ url URL }

func (e *timeoutError) Error() string { return "no answer in time from " + e.url.String() }

// Timeout is as in net.Error.
func (e *timeoutError) Timeout() bool { return true }

// A busyError means that all connections to a server were in use until the deadline.
type busyError struct{ err error }

func (e *busyError) Error() string { return "all connections are in use: " + e.err.Error() }
func (e *busyError) Unwrap() error { return e.err }

// Check opens a new connection to every server, binds as the service account, and reads
// the entry of base, unless that is empty. The error has a line for each server that fails.
func (c *Client) Check(ctx context.Context, base DN) error {
	var errs []error
	for i, s := range c.servers {
		ctx, cancel := context.WithTimeout(ctx, share(ctx, len(c.servers)-i))
		errs = append(errs, s.check(ctx, base))
		cancel()
	}
	return errors.Join(errs...)
}

func (s *server) check(ctx context.Context, base DN) error {
	c, err := s.dialer.dial(ctx, ForSearches)
	if err == nil {
		defer c.close()
		err = c.within(ctx, func(c *Conn) error {
			if base.text == "" {
				return nil
			}
			_, err := c.Entry(base.text)
			return c.explainBase(base.text, err)
		})
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s.dialer.url, err)
	}
	return nil
}
