package server

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"strings"
	"time"

	"github.com/emersion/go-smtp"

	"postern/relay"
	"postern/relay/message"
	"postern/server/smtpd"
)

// Data implements smtpd.Session. It asks the list "data" of the policy.
func (s *session) Data(ctx context.Context, _ bool) (smtpd.Body, *smtpd.Reply) {
	t := s.mail
	if refused := s.check(ctx, s.parts.Policy.AtData, "", t.envelope.Options.Size); refused != nil {
		return nil, refused
	}
	b := &body{session: s, staged: s.stage.New(message.Options{
		Owner: t.envelope.Owner(), BareNewlines: s.config.BareNewline, Size: t.envelope.Options.Size,
	})}
	if s.config.SuppressDuplicates {
		b.digest = sha256.New()
	}
	return b, nil
}

// A body stages a message: an [smtpd.Body].
type body struct {
	session *session
	staged  *message.Writer
	digest  hash.Hash // for Envelope.Digest; nil unless duplicates are suppressed
}

// Write implements smtpd.Body.
func (b *body) Write(p []byte) (int, error) {
	if b.digest != nil {
		_, _ = b.digest.Write(p) // never fails (hash.Hash)
	}
	return b.staged.Write(p)
}

// Abort implements smtpd.Body.
func (b *body) Abort(err error) *smtpd.Reply {
	b.staged.Abort()
	return stageReply(err)
}

// Commit implements smtpd.Body. 250 is sent only for a message that the next hop, or
// the spool, has answered 250 for.
func (b *body) Commit(ctx context.Context) *smtpd.Reply {
	defer b.staged.Abort() // after a panic: otherwise the message has it
	m, err := b.staged.Message()
	if err != nil {
		return stageReply(err)
	}
	defer func() { _ = m.Close() }()
	s, t := b.session, b.session.mail
	size := b.staged.Received()
	if refused := s.check(ctx, s.parts.Policy.AtEndOfData, "", size); refused != nil {
		return refused
	}
	if b.digest != nil {
		t.envelope.Digest = [sha256.Size]byte(b.digest.Sum(nil))
	}
	ready, err := fixHeader(m, fixUps{
		Sender: t.envelope.Sender,
		Origin: s.origin,
		NewID:  func() string { return smtpd.NewID() + smtpd.NewID() },
		Trace: trace{
			Hide: s.config.HideClient, Helo: t.envelope.Helo, Remote: s.conn.Remote().Addr(),
			Extended: s.extended, UTF8: t.envelope.Options.UTF8, TLS: s.tlsFacts, Login: s.loggedIn,
			Hostname: s.hostname, ID: t.envelope.Message, Now: time.Now(),
		},
	})
	if err != nil {
		return headerReply(err)
	}
	s.working.Store(true)
	defer s.working.Store(false)
	receipt, err := t.hop.Send(ctx, ready)
	if err != nil {
		relay.Abandon(err)
		return relayReply(err)
	}
	s.slots.progress()
	return s.accepted(t, size, receipt)
}

// accepted logs a message that the next hop has, and returns the reply, with the hop's text:
// users and administrators search the logs for its queue id.
func (s *session) accepted(t *transaction, size int64, receipt relay.Receipt) *smtpd.Reply {
	code, text := smtp.EnhancedCode{2, 0, 0}, receipt.Text
	if first, rest, ok := strings.Cut(text, " "); ok {
		var c smtp.EnhancedCode
		if n, _ := fmt.Sscanf(first, "%1d.%d.%d", &c[0], &c[1], &c[2]); n == 3 && c[0] == 2 {
			code, text = c, rest
		}
	}
	r := smtpd.NewReply(250, code, text)
	r.OnSeen = receipt.Seen
	logged := false
	defer func() {
		if !logged && r.OnSeen != nil { // after a panic the client receives 421
			r.OnSeen(false)
		}
	}()
	e := t.envelope
	event := MessageEvent{ID: e.Message, User: e.Login, From: e.Sender, To: t.recipients, Size: size}
	if receipt.First != "" {
		s.events.Duplicate(event, receipt)
	} else {
		s.events.Accepted(event, receipt, time.Since(e.Begun))
	}
	logged = true
	return r
}

// stageReply is the reply to a message that could not be taken.
func stageReply(err error) *smtpd.Reply {
	var storage *message.StorageError
	switch {
	case errors.Is(err, smtpd.ErrTooLarge):
		return replyTooLarge
	case errors.Is(err, message.ErrBareNewline):
		return replyBareNewline
	case errors.Is(err, message.ErrNUL):
		return replyNUL
	case errors.Is(err, message.ErrLongLine):
		return replyLongLine
	case errors.Is(err, message.ErrHeaderTooLarge):
		return replyLongHeader
	case errors.As(err, &storage):
		return withCause(replyNoStorage, err)
	}
	return withCause(replyCut, err)
}
