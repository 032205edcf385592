package server

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strconv"
	"syscall"
	"time"

	"github.com/emersion/go-smtp"

	"postern/policy"
	"postern/relay"
	"postern/server/auth"
	"postern/server/smtpd"
)

// A session is one client's connection: an [smtpd.Session]. Only the goroutine of the
// connection uses it, but for conn, slots and events.
type session struct {
	*snapshot
	conn   *smtpd.Conn
	slots  slots
	begun  time.Time
	events SessionEvents

	tls      *tls.ConnectionState // nil in clear text
	tlsFacts policy.TLS           // the same for the policy
	identity auth.Identity
	loggedIn bool
	attempts int // AUTH exchanges begun since the last success
	messages int // transactions begun
	mail     *transaction
	rcpt     string // the recipient of the RCPT command that is being answered
	reported bool   // the refusal that is being made has a line in the log

	services Services // of the current exchange or transaction
	release  func()   // of services; nil: there are none
}

// acquire returns the services for the exchange or the transaction that begins, and keeps
// them until releaseServices is called. There is no AUTH in a transaction.
func (s *session) acquire() Services {
	if s.release == nil {
		s.services, s.release = s.parts.Services()
	}
	return s.services
}

// releaseServices ends what acquire began. A further call does nothing.
func (s *session) releaseServices() {
	if release := s.release; release != nil {
		s.services, s.release = Services{}, nil
		release()
	}
}

// A transaction is one message, from MAIL on.
type transaction struct {
	envelope   *relay.Envelope
	sender     string // as the client sent it; without a domain if it sent none
	hop        relay.Transaction
	recipients []string // accepted, as they went to the hop
}

// Hello implements smtpd.Session.
func (s *session) Hello(context.Context, string, bool) *smtpd.Reply {
	if s.tls = s.conn.TLS(); s.tls == nil {
		return nil
	}
	s.tlsFacts = policy.TLS{Version: tls.VersionName(s.tls.Version), Cipher: tls.CipherSuiteName(s.tls.CipherSuite)}
	if !s.parts.RequireAuth {
		s.admit() // the limits before authentication are not meant for this listener
	}
	return nil
}

// admit ends the limits that hold before authentication.
func (s *session) admit() {
	s.conn.Authenticated()
	s.slots.authenticated()
	s.server.authenticated(s)
}

// Offer implements smtpd.Session. It depends on the next hop.
func (s *session) Offer() smtpd.Offer {
	services, release := s.parts.Services()
	defer release()
	caps := services.Hop.Caps()
	o := smtpd.Offer{
		Size: s.sizeLimit(caps), RcptMax: s.limits.Recipients,
		DSN: caps.DSN, UTF8: caps.SMTPUTF8,
	}
	if s.tls != nil { // RFC 4954, section 4: no AUTH without TLS
		o.Mechanisms = services.Auth.Mechanisms(s.peer())
	}
	return o
}

// hopRoom is left between our SIZE and the next hop's, in octets, for the header
// fields that are added.
const hopRoom = 8 << 10

// sizeLimit is our own limit, or what the next hop accepts if that is less.
func (s *snapshot) sizeLimit(caps relay.Caps) int64 {
	limit := int64(s.config.MessageSizeLimit)
	if caps.Size > 0 {
		limit = min(limit, max(caps.Size-hopRoom, 1))
	}
	return limit
}

// Mail implements smtpd.Session. It checks in the order in which a client can do
// something about a refusal.
func (s *session) Mail(_ context.Context, from smtpd.Path, p *smtp.MailOptions) *smtpd.Reply {
	switch {
	case !s.loggedIn && s.parts.RequireAuth:
		return replyNeedAuth
	case s.messages >= s.limits.Messages:
		return replyMailMax
	}
	s.messages++
	s.mail = s.newTransaction(from, p)
	return nil
}

func (s *session) newTransaction(from smtpd.Path, p *smtp.MailOptions) *transaction {
	helo, _ := s.conn.Hello()
	return &transaction{
		sender: from.String(),
		envelope: &relay.Envelope{
			Session:   s.conn.ID(),
			Message:   s.conn.ID() + "." + strconv.Itoa(s.messages),
			Begun:     time.Now(),
			Listener:  s.parts.Name,
			Remote:    s.conn.Remote(),
			Helo:      helo,
			Login:     s.identity.User,
			Mechanism: s.identity.Mechanism,
			Sender:    s.complete(from),
			Options:   *p,
		},
	}
}

// complete adds server.origin to an address without a domain (Postfix's
// append_at_myorigin; RFC 5321, section 4.5.1, for postmaster).
func (s *session) complete(p smtpd.Path) string {
	if p.Domain == "" && !p.IsNull() {
		p.Domain = s.config.origin()
	}
	return p.String()
}

// Rcpt implements smtpd.Session. It asks the policy and then the next hop, so that the
// client receives the hop's own refusal for that very address.
func (s *session) Rcpt(ctx context.Context, to smtpd.Path, p *smtp.RcptOptions) *smtpd.Reply {
	t, rcpt := s.mail, s.complete(to)
	s.rcpt = to.String()
	r := s.request(t, t.envelope.Options.Size)
	r.Recipient, r.RecipientSent = rcpt, s.rcpt
	if refused := s.judge(r, s.parts.Policy.AtRcpt(ctx, r)); refused != nil {
		return refused
	}
	if err := s.askHop(ctx, t, rcpt, p); err != nil {
		return relayReply(err)
	}
	s.rcpt = ""
	t.recipients = append(t.recipients, rcpt)
	return nil
}

func (s *session) askHop(ctx context.Context, t *transaction, rcpt string, p *smtp.RcptOptions) error {
	if t.hop == nil {
		hop, err := s.acquire().Hop.Begin(ctx, t.envelope)
		if err != nil {
			return err
		}
		t.hop = hop
	}
	return t.hop.Rcpt(ctx, rcpt, p)
}

// judge turns the verdict of a list into a reply: nil to go on.
func (s *session) judge(r *policy.Request, v policy.Verdict) *smtpd.Reply {
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

// request is what the policy is asked about; size is in octets.
func (s *session) request(t *transaction, size int64) *policy.Request {
	return &policy.Request{
		Session: s.conn.ID(), Listener: s.parts.Name,
		Remote: s.conn.Remote(), Local: s.conn.Local(), Helo: t.envelope.Helo,
		Login: s.identity.User, Mechanism: s.identity.Mechanism,
		Sender: t.envelope.Sender, SenderSent: t.sender,
		Recipients: len(t.recipients), Size: size,
		TLS: s.tlsFacts,
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
		s.tls, s.tlsFacts = nil, policy.TLS{}
		s.identity, s.loggedIn = auth.Identity{}, false
	}
}

// Refused implements smtpd.Session.
func (s *session) Refused(r smtpd.Refusal) {
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
	defer s.releaseServices() // held still after a panic
	var handshake *smtpd.HandshakeError
	var foreign *smtpd.ForeignError
	var panicked *smtpd.PanicError
	switch {
	case errors.As(reason, &handshake) && !isHealthCheck(handshake.Err):
		s.events.HandshakeFailed(handshake.Err)
	case errors.As(reason, &foreign):
		s.events.ForeignProtocol(foreign.Protocol)
	case errors.As(reason, &panicked):
		s.events.Panicked(panicked)
	case reason != nil && !errors.Is(reason, smtpd.ErrQuit) && !errors.Is(reason, smtpd.ErrClosed):
		s.events.ConnectionError(reason)
	}
	s.events.Disconnected(time.Since(s.begun), s.messages)
}

// isHealthCheck reports whether a client has ended the connection before or in the
// middle of the handshake, as load balancers do that only look whether the port is
// open.
func isHealthCheck(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
