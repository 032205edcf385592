package server

import (
	"context"
	"crypto/tls"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/emersion/go-smtp"

	"postern/internal/dsn"
	"postern/policy"
	"postern/relay"
	"postern/server/auth"
)

// replyBound is the time within which every command is answered. RFC 6409,
// section 5.3, asks for two minutes, DATA included.
const replyBound = 110 * time.Second

// A session is what go-smtp asks about one client between EHLO and the end of
// its connection; STARTTLS ends one and begins another (see wire).
//
// go-smtp calls it from one goroutine, but for two cases: with BDAT, Data runs
// in a goroutine of its own while Reset or Logout may come, and Logout may
// come at any time when the server is closed. What they share is the
// transaction, behind the lock.
type session struct {
	*service
	smtp  *smtp.Conn
	conn  *wire
	tls   *tls.ConnectionState // nil on clear text
	facts policy.TLS           // the same for the policy
	log   mailLog              // the session's own

	identity auth.Identity
	loggedIn bool
	attempts int // AUTH exchanges begun and not brought to success

	mu       sync.Mutex
	exchange *exchange    // the AUTH that is under way
	mail     *transaction // from MAIL to the end of data or RSET
}

var _ smtp.AuthSession = (*session)(nil)

// A transaction is one message from MAIL on.
type transaction struct {
	id         string
	begun      time.Time
	envelope   *relay.Envelope
	hop        relay.Transaction
	recipients []string      // accepted ones, as they went to the hop
	taking     chan struct{} // closed when Data has been called for BDAT

	fingerprint fingerprint // while duplicates are suppressed
	receipt     *receipt    // likewise, from the end of data on
	late        bool        // the answer of the hop is waited for
}

// newSession is called by go-smtp at the first EHLO.
func (s *service) newSession(c *smtp.Conn) (smtp.Session, error) {
	n := &session{service: s, smtp: c, conn: c.Conn().(*wire)}
	n.conn.session = n
	if n.conn.tls != nil {
		state := n.conn.tls.ConnectionState()
		n.tls = &state
		// Once: crypto/tls makes its table of cipher suites anew for each name.
		n.facts = policy.TLS{Version: tls.VersionName(state.Version), Cipher: tls.CipherSuiteName(state.CipherSuite)}
	}
	if n.tls != nil && !s.listener.RequireAuth {
		n.conn.admit() // the limits for strangers are not meant here
	}
	n.log = n.conn.log
	return n, nil
}

// Mail begins a transaction.
func (s *session) Mail(from string, opts *smtp.MailOptions) error {
	t, refusal := s.begin(from, opts)
	if refusal != nil {
		return s.refuse("MAIL", nil, "", refusal, nil)
	}
	s.mu.Lock()
	s.mail = t
	s.mu.Unlock()
	s.conn.busy.Store(true)
	return nil
}

// begin checks MAIL in the order in which a client can do something about it.
func (s *session) begin(from string, opts *smtp.MailOptions) (*transaction, *smtp.SMTPError) {
	switch {
	case s.tls == nil:
		return nil, replyNeedTLS
	case !s.loggedIn && s.listener.RequireAuth:
		return nil, replyNeedAuth
	case s.current() != nil:
		return nil, replyNestedMail
	case int(s.conn.messages.Load()) >= s.limits.Messages:
		s.conn.hangUp("") // the reply says it all
		return nil, replyMailMax
	}
	sender := ""
	if from != "" {
		var refusal *smtp.SMTPError
		if sender, refusal = wireAddress(from, opts.UTF8, replyBadSender); refusal != nil {
			return nil, refusal
		}
	}
	s.conn.messages.Add(1)
	return s.transaction(sender, opts), nil
}

func (s *session) transaction(sender string, opts *smtp.MailOptions) *transaction {
	t := &transaction{
		taking: make(chan struct{}),
		id:     s.conn.id + "." + strconv.Itoa(int(s.conn.messages.Load())),
		begun:  time.Now(),
		envelope: &relay.Envelope{
			Session:   s.conn.id,
			Listener:  s.listener.Name,
			Remote:    s.conn.remote,
			Helo:      s.smtp.Hostname(),
			Login:     s.identity.User,
			Mechanism: s.identity.Mechanism,
			Sender:    sender,
			// Auth stays behind: RFC 4954, section 5, lets it on only between
			// servers that trust each other.
			Options: smtp.MailOptions{
				Body: opts.Body, Size: opts.Size, UTF8: opts.UTF8,
				Return: opts.Return, EnvelopeID: dsn.EncodeXtext(opts.EnvelopeID),
			},
		},
	}
	if s.receipts != nil {
		t.envelope.Late = func(await relay.Await) bool { return s.awaitLate(t, await) }
	}
	return t
}

// Rcpt asks the policy and then the next hop, so that the client hears the
// hop's own refusal for the very address.
func (s *session) Rcpt(to string, opts *smtp.RcptOptions) error {
	t := s.current()
	if t == nil {
		return replyClosing
	}
	rcpt, refusal := wireAddress(to, t.envelope.Options.UTF8, replyBadRecipient)
	if refusal != nil {
		return s.refuse("RCPT", t, "", refusal, nil)
	}
	ctx, cancel := context.WithTimeout(s.conn.ctx, replyBound)
	defer cancel()
	r := s.request(t, rcpt, t.envelope.Options.Size)
	if err := s.ask("RCPT", t, r, s.policy.AtRcpt(ctx, r)); err != nil {
		return err
	}
	if err := s.askHop(ctx, t, rcpt, opts); err != nil {
		return s.refuse("RCPT", t, rcpt, relayReply(err), cause(err))
	}
	t.recipients = append(t.recipients, rcpt)
	if s.receipts != nil {
		t.fingerprint.addRecipient(rcpt, opts)
	}
	return nil
}

func (s *session) askHop(ctx context.Context, t *transaction, rcpt string, opts *smtp.RcptOptions) error {
	if t.hop == nil {
		hop, err := s.hop.Begin(ctx, t.envelope)
		if err != nil {
			return err
		}
		t.hop = hop
	}
	return t.hop.Rcpt(ctx, rcpt, &smtp.RcptOptions{
		Notify:                opts.Notify,
		OriginalRecipientType: opts.OriginalRecipientType,
		OriginalRecipient:     encodeOriginal(opts),
	})
}

// encodeOriginal encodes the address of ORCPT, which go-smtp has decoded and relay wants
// encoded. A type that is empty or unknown comes with no address.
func encodeOriginal(opts *smtp.RcptOptions) string {
	if opts.OriginalRecipientType == smtp.DSNAddressTypeUTF8 {
		return dsn.EncodeUTF8(opts.OriginalRecipient)
	}
	return dsn.EncodeXtext(opts.OriginalRecipient)
}

// ask turns the verdict of a list into the reply: nil to go on.
func (s *session) ask(command string, t *transaction, r *policy.Request, v policy.Verdict) error {
	s.log.warned(r, v)
	if v.Reply == nil {
		return nil
	}
	return s.refuse(command, t, r.Recipient, v.Reply, v.Cause)
}

func (s *session) request(t *transaction, rcpt string, size int64) *policy.Request {
	return &policy.Request{
		Session: s.conn.id, Listener: s.listener.Name,
		Remote: s.conn.remote, Local: s.conn.local, Helo: s.smtp.Hostname(),
		Login: s.identity.User, Mechanism: s.identity.Mechanism,
		Sender: t.envelope.Sender, Recipient: rcpt, Recipients: len(t.recipients), Size: size,
		TLS: s.facts,
	}
}

// refuse logs a refusal and counts it.
func (s *session) refuse(command string, t *transaction, rcpt string, reply *smtp.SMTPError, cause error) error {
	s.log.refused(command, t, rcpt, reply, cause)
	s.conn.explained.Store(true)
	s.conn.refused()
	return reply
}

// awaitData waits until Data is at work on a BDAT that go-smtp has accepted. It
// calls Data in a goroutine, which looks for the session and does not find one if
// the connection is closed, as by QUIT, before it runs.
func (s *session) awaitData() {
	if t := s.current(); t != nil {
		<-t.taking
	}
}

func (s *session) current() *transaction {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mail
}

// Reset ends the transaction: after RSET, EHLO, the end of data, or in the
// middle of a BDAT message.
func (s *session) Reset() {
	s.closeExchange()
	s.mu.Lock()
	t := s.mail
	s.mail = nil
	s.mu.Unlock()
	if t == nil {
		return // behind STARTTLS, busy is another session's by now
	}
	if t.hop != nil {
		_ = t.hop.Close()
	}
	s.conn.busy.Store(false)
}

// Logout ends the session; go-smtp calls it once.
func (s *session) Logout() error {
	if !s.conn.detached {
		s.conn.cancel()
	}
	s.Reset()
	return nil
}

// cause is what the log has to know beyond the reply.
func cause(err error) error {
	var e *smtp.SMTPError
	if errors.As(err, &e) && err == error(e) {
		return nil
	}
	return err
}
