package ldap

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"postern/internal/fileperm"
	"postern/server/auth"
	"postern/server/auth/semaphore"
)

const (
	// A server that has failed is asked after the others for this time.
	avoidTime = 15 * time.Second

	// The time for an answer if the caller's ctx has no deadline.
	defaultAnswerTime = 10 * time.Second

	// TLS sessions to resume, for each server.
	tlsSessions = 4
)

// A directory is the list of equivalent servers.
type directory struct {
	servers []*server
	events  auth.Events
}

// A server is one server of a directory.
type server struct {
	dialer dialer
	pool   *pool

	mu        sync.Mutex
	avoidTill time.Time // zero: the last request was answered
}

func newDirectory(cfg Config, events auth.Events) (*directory, error) {
	service, err := readAccount(cfg)
	if err != nil {
		return nil, err
	}
	authorities, err := readAuthorities(cfg.CAFile)
	if err != nil {
		return nil, err
	}
	d := &directory{events: events}
	for _, u := range cfg.ServerHost {
		d.servers = append(d.servers, &server{
			dialer: dialer{
				url:      u,
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
			pool: &pool{limit: cfg.Connections, idleTime: cfg.IdleTime, slots: semaphore.New(cfg.Connections)},
		})
	}
	return d, nil
}

func readAccount(cfg Config) (account, error) {
	if cfg.BindDN.text == "" {
		return account{}, nil
	}
	password, err := fileperm.ReadSecretLine(cfg.BindPasswordFile)
	if err != nil {
		return account{}, fmt.Errorf("bind_password_file: %w", err)
	}
	return account{cfg.BindDN.text, secret{password}}, nil
}

// readAuthorities returns nil for the authorities of the system.
func readAuthorities(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("ca_file: %s contains no PEM certificate", file)
	}
	return pool, nil
}

func (d *directory) close() {
	for _, s := range d.servers {
		s.pool.close()
	}
}

// do calls op with a connection to the first server, and then to the others, until one has
// answered. Servers that have failed recently are last. The servers share the remaining
// time of ctx.
func (d *directory) do(ctx context.Context, p purpose, known bool, op func(*conn) error) error {
	var errs []error
	order := d.order(time.Now())
	for i, s := range order {
		err := s.try(ctx, len(order)-i, p, known, op)
		if answered(err) {
			d.recovered(s)
			return err
		}
		if ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return err // the caller has cancelled the request
		}
		errs = append(errs, err)
		d.failed(s, err)
	}
	return errors.Join(errs...)
}

// order returns the servers, those that have failed recently last.
func (d *directory) order(now time.Time) []*server {
	order := make([]*server, 0, len(d.servers))
	var avoided []*server
	for _, s := range d.servers {
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
func (d *directory) failed(s *server, err error) {
	if _, busy := errors.AsType[*busyError](err); busy {
		return
	}
	s.pool.closeIdle(true)
	s.mu.Lock()
	first := s.avoidTill.IsZero()
	s.avoidTill = time.Now().Add(avoidTime)
	s.mu.Unlock()
	if first {
		d.events.LDAPServerDown(s.dialer.url.String(), err)
	}
}

func (d *directory) recovered(s *server) {
	s.mu.Lock()
	was := !s.avoidTill.IsZero()
	s.avoidTill = time.Time{}
	s.mu.Unlock()
	if was {
		d.events.LDAPServerUp(s.dialer.url.String())
	}
}

// try calls op for one server, which shares the time with the servers that are left. A
// connection from the pool may have failed while it was idle, so op is called again with a
// new one.
func (s *server) try(ctx context.Context, left int, p purpose, known bool, op func(*conn) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, share(ctx, left), &timeoutError{s.dialer.url})
	defer cancel()
	reused, err := s.once(ctx, p, known, op)
	if reused && !answered(err) && ctx.Err() == nil {
		s.pool.closeIdle(true)
		_, err = s.once(ctx, p, known, op)
	}
	if answered(err) {
		return err
	}
	return fmt.Errorf("%s: %w", s.dialer.url, fileperm.ExplainDial(err))
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
func (s *server) once(ctx context.Context, p purpose, known bool, op func(*conn) error) (reused bool, err error) {
	if err := s.pool.acquire(ctx, known); err != nil {
		return false, &busyError{err}
	}
	c := s.pool.take(p)
	defer func() { s.pool.release(c) }()
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
