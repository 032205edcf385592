package server

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/emersion/go-smtp"

	"postern/policy"
	"postern/relay"
	"postern/server/auth"
	"postern/server/smtpd"
)

// A session is one client's connection: an [smtpd.Session]. Only the goroutine of the
// connection uses it, except for conn, slots, events and working.
type session struct {
	*snapshot
	proxied proxied
	conn    *smtpd.Conn
	slots   slots
	begun   time.Time
	events  SessionEvents
	working atomic.Bool // the server verifies a password or relays a message; see connLimiter.oldest

	helo     string               // what the client calls itself
	extended bool                 // by EHLO, not HELO
	tls      *tls.ConnectionState // nil in clear text
	tlsFacts policy.TLS           // the same for the policy
	identity auth.Identity
	loggedIn bool
	attempts int // AUTH exchanges begun since the last success
	messages int // transactions begun
	mail     *transaction
	rcpt     string // the recipient of the RCPT command that is being answered
	reported bool   // the current refusal has been logged already

	services Services // of the current exchange or transaction
	hold     *hold    // on services; nil: there are none
}

// A transaction is one message, from MAIL on.
type transaction struct {
	envelope   *relay.Envelope
	sender     string // as the client sent it; without a domain if it sent none
	hop        relay.Transaction
	recipients []string // accepted, as they went to the hop
}

// acquire returns the newest services for a new exchange or transaction, and keeps them
// until releaseServices. The two never overlap, because AUTH is not allowed in a
// transaction.
func (s *session) acquire() Services {
	if s.hold == nil {
		services, release := s.parts.Services()
		s.services, s.hold = services, newHold(release)
	}
	return s.services
}

// releaseServices releases the services of acquire, if there are any.
func (s *session) releaseServices() {
	if h := s.hold; h != nil {
		s.services, s.hold = Services{}, nil
		h.release()
	}
}

// Hello implements smtpd.Session.
func (s *session) Hello(_ context.Context, name string, extended bool) *smtpd.Reply {
	s.helo, s.extended = name, extended
	if s.tls = s.conn.TLS(); s.tls == nil {
		return nil
	}
	s.tlsFacts = policy.TLS{Version: tls.VersionName(s.tls.Version), Cipher: tls.CipherSuiteName(s.tls.CipherSuite)}
	if !s.parts.RequireAuth && !s.proxied.unknown {
		s.conn.Authenticated() // the times before authentication are for listeners with logins
	}
	return nil
}

// hopRoom is the difference between the next hop's SIZE and the announced one, in octets.
// It leaves room for the header fields that are added.
const hopRoom = 8 << 10

// Offer implements smtpd.Session. It depends on the next hop.
func (s *session) Offer() smtpd.Offer {
	services, release := s.parts.Services()
	defer release()
	caps := services.Hop.Caps()
	o := smtpd.Offer{
		Size: int64(s.config.MessageSizeLimit), RcptMax: s.limits.Recipients,
		DSN: caps.DSN, UTF8: caps.SMTPUTF8,
	}
	if caps.Size > 0 {
		o.Size = min(o.Size, max(caps.Size-hopRoom, 1))
	}
	if s.tls != nil && !s.proxied.unknown { // RFC 4954, section 4: no AUTH without TLS
		o.Mechanisms = services.Auth.Mechanisms(s.peer())
	}
	return o
}

func (s *session) peer() *auth.Peer {
	return &auth.Peer{
		Remote: s.conn.Remote(), Local: s.conn.Local(),
		Helo: s.helo, TLS: s.tls, Session: s.conn.ID(),
		Certificate: s.conn.Certificate(),
	}
}

// Auth implements smtpd.Session. An attempt counts from its start, because the client may
// cancel it or disconnect before its end. Only a success resets the count.
func (s *session) Auth(ctx context.Context, mechanism string) (smtpd.Exchange, *smtpd.Reply) {
	if s.attempts >= s.parts.AuthFailures {
		return nil, replyTooManyFailures
	}
	provider, peer := s.acquire().Auth, s.peer()
	peer.Background = s.background(mechanism)
	x, err := provider.Start(ctx, peer, mechanism)
	if err != nil {
		s.releaseServices()
	}
	if errors.Is(err, auth.ErrMechanism) {
		return nil, replyMechanism
	}
	s.attempts++
	if err != nil {
		return nil, s.authFailed(ctx, mechanism, err)
	}
	return &exchange{Exchange: x, session: s, mechanism: mechanism}, nil
}

// An exchange is an [smtpd.Exchange] over one of package auth.
type exchange struct {
	auth.Exchange
	session   *session
	mechanism string
}

// Next implements smtpd.Exchange.
func (e *exchange) Next(ctx context.Context, response []byte) ([]byte, *smtpd.Reply) {
	s := e.session
	s.working.Store(true)
	defer s.working.Store(false)
	challenge, done, err := e.Exchange.Next(ctx, response)
	switch {
	case err != nil:
		return nil, s.authFailed(ctx, e.mechanism, err)
	case done:
		if refused := s.logIn(e.Identity()); refused != nil {
			return nil, refused
		}
		s.events.AuthOK(s.identity, s.tls)
		return nil, replyAuthenticated
	}
	return challenge, nil
}

// Close implements smtpd.Exchange.
func (e *exchange) Close(error) {
	defer e.session.releaseServices()
	_ = e.Exchange.Close()
	if login, ok := auth.Unfinished(e.Exchange); ok {
		e.session.events.AuthUnfinished(e.mechanism, login)
	}
}

// authFailed logs the failure and returns the reply. After too many failures it closes the
// connection.
func (s *session) authFailed(ctx context.Context, mechanism string, err error) *smtpd.Reply {
	s.reported = true
	switch {
	case errors.Is(err, auth.ErrPending): // has its line later
	case abandoned(ctx, err):
		s.events.AuthAbandoned(mechanism, "")
	default:
		s.events.AuthError(mechanism, err, errors.Is(ctx.Err(), context.Canceled))
	}
	if s.attempts >= s.parts.AuthFailures {
		s.conn.CloseAfterReply(replyTooManyFailures)
	}
	return authReply(err)
}

// Mail implements smtpd.Session. It checks first what the client can correct: that it has
// logged in.
func (s *session) Mail(_ context.Context, from smtpd.Path, p *smtp.MailOptions) *smtpd.Reply {
	switch {
	case !s.loggedIn && s.parts.RequireAuth:
		return replyNeedAuth
	case s.messages >= s.limits.Messages:
		return replyMailMax
	}
	s.messages++
	s.mail = &transaction{
		sender: from.String(),
		envelope: &relay.Envelope{
			Session:   s.conn.ID(),
			Message:   s.conn.ID() + "." + strconv.Itoa(s.messages),
			Begun:     time.Now(),
			Listener:  s.parts.Name,
			Remote:    s.conn.Remote(),
			Helo:      s.helo,
			Login:     s.identity.User,
			Users:     s.parts.Users,
			Mechanism: s.identity.Mechanism,
			Sender:    s.complete(from),
			Options:   *p,
		},
	}
	s.mail.envelope.MaySign = s.loggedIn || s.parts.Policy.InMyNetworks(s.request("", 0))
	if err := s.checkRoom(s.mail.envelope); err != nil {
		s.mail = nil
		return withCause(replyNoStorage, err)
	}
	return nil
}

// checkRoom returns an error if a message of the size that the client has declared could not
// be staged now (RFC 1870, section 6.1), so that the client need not send it.
func (s *session) checkRoom(e *relay.Envelope) error {
	if e.Options.Size <= 0 {
		return nil
	}
	return s.stage.Check(e.Owner(), e.Options.Size)
}

// complete adds server.origin to an address without a domain (Postfix's
// append_at_myorigin; RFC 5321, section 4.5.1, for postmaster).
func (s *session) complete(p smtpd.Path) string {
	if p.Domain == "" && !p.IsNull() {
		p.Domain = s.origin
	}
	return p.String()
}

// Rcpt implements smtpd.Session. It asks the policy and then the next hop, so that the
// client receives the hop's own refusal of that address.
func (s *session) Rcpt(ctx context.Context, to smtpd.Path, p *smtp.RcptOptions) *smtpd.Reply {
	t, rcpt := s.mail, s.complete(to)
	s.rcpt = to.String()
	if refused := s.check(ctx, s.parts.Policy.AtRcpt, rcpt, t.envelope.Options.Size); refused != nil {
		return refused
	}
	if t.hop == nil {
		hop, err := s.acquire().Hop.Begin(ctx, t.envelope)
		if err != nil {
			return relayReply(err)
		}
		t.hop = hop
	}
	if err := t.hop.Rcpt(ctx, rcpt, p); err != nil {
		return relayReply(err)
	}
	s.rcpt = ""
	t.recipients = append(t.recipients, rcpt)
	return nil
}

// check calls at, the policy's method for the stage, and logs the warnings. It returns the
// policy's refusal, or nil. rcpt is the recipient at RCPT, and size is in octets.
func (s *session) check(ctx context.Context, at func(context.Context, *policy.Request) policy.Verdict, rcpt string, size int64) *smtpd.Reply {
	r := s.request(rcpt, size)
	v := at(ctx, r)
	for _, warning := range v.Warnings {
		s.events.RejectWarning(r, warning)
	}
	if v.Reply == nil {
		return nil
	}
	reply := replyOf(v.Reply, v.Cause)
	reply.Close = reply.Code == 421 || reply.Code == 521 // from an access table; as in Postfix
	return reply
}

// request is the current transaction as the policy sees it.
func (s *session) request(rcpt string, size int64) *policy.Request {
	return &policy.Request{
		Session: s.conn.ID(), Listener: s.parts.Name,
		Remote: s.conn.Remote(), Local: s.conn.Local(), AtProxy: s.proxied.atProxy, Helo: s.mail.envelope.Helo, TLS: s.tlsFacts,
		Login: s.identity.User, Mechanism: s.identity.Mechanism,
		Sender: s.mail.envelope.Sender, SenderSent: s.mail.sender,
		Recipient: rcpt, RecipientSent: s.rcpt,
		Recipients: len(s.mail.recipients), Size: size,
	}
}

// Reset implements smtpd.Session.
func (s *session) Reset(_ context.Context, why smtpd.Cause) {
	defer s.releaseServices()
	if t := s.mail; t != nil && t.hop != nil {
		_ = t.hop.Close()
	}
	s.mail, s.rcpt = nil, ""
	if why == smtpd.ResetTLS {
		s.helo, s.extended = "", false
		s.tls, s.tlsFacts = nil, policy.TLS{}
		s.identity, s.loggedIn = auth.Identity{}, false
	}
}

// Refused implements smtpd.Session.
func (s *session) Refused(r smtpd.Refusal) {
	if s.proxied.unknown {
		s.events.UnknownClient(r)
		return
	}
	if s.reported {
		s.reported = false
		return
	}
	e := Refused{Refusal: r, User: s.identity.User, To: s.rcpt}
	if s.mail != nil {
		e.InTransaction, e.From = true, s.mail.sender
	}
	s.rcpt = ""
	s.events.Refused(e)
}

// Close implements smtpd.Session.
func (s *session) Close(reason error) {
	defer s.server.remove(s)
	defer s.slots.release()
	defer s.releaseServices() // still held after a panic
	var handshake *smtpd.HandshakeError
	var foreign *smtpd.ForeignError
	var panicked *smtpd.PanicError
	switch {
	case errors.As(reason, &handshake) && !isHealthCheck(handshake.Err):
		s.events.HandshakeFailed(handshake.Err)
	case errors.As(reason, &foreign):
		s.events.ForeignProtocol(foreign.Protocol, s.proxied.foreignHint(foreign))
	case errors.As(reason, &panicked):
		s.events.Panicked(panicOf(panicked))
	case reason != nil && !errors.Is(reason, smtpd.ErrQuit) && !errors.Is(reason, smtpd.ErrClosed):
		s.events.ConnectionError(reason)
	}
	s.events.Disconnected(time.Since(s.begun), s.messages)
}

// isHealthCheck reports whether the client closed the connection before the end of the
// handshake, like a load balancer that only checks whether the port is open.
func isHealthCheck(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
