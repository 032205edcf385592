package server

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync"
	"time"

	"github.com/emersion/go-smtp"

	"postern/relay/message"
)

// Data takes the message in and hands it over. 250 is said only for a message
// that the next hop has said 250 for.
func (s *session) Data(r io.Reader) error {
	s.arriving.Add(1)
	s.conn.receiving.Store(true) // until Reset: go-smtp may have the rest to read
	err := s.receive(r)
	left := s.arriving.Add(-1)
	if errors.Is(err, smtp.ErrDataReset) {
		// RSET, or the end of the session, in the middle of BDAT. Nobody waits
		// for a result any more, and go-smtp's only place for one may be the
		// next message's by now: this goroutine ends without any.
		if left == 0 {
			s.conn.receiving.Store(false)
		}
		runtime.Goexit()
	}
	return err
}

func (s *session) receive(r io.Reader) error {
	m, received, err := s.stageFrom(r)
	if errors.Is(err, smtp.ErrDataReset) {
		return err // the transaction is gone already, and its place may be taken
	}
	if err == nil {
		defer func() { _ = m.Close() }()
	}
	// From here on nobody else is at work: with BDAT, go-smtp waits for us.
	t := s.current()
	if t == nil || s.over.Load() {
		return replyClosing
	}
	if err != nil {
		return s.refuse("DATA", t, "", s.stageRefusal(err), err)
	}
	if gone := s.probe(r); gone {
		return s.refuse("BDAT", t, "", replyCut, nil)
	}
	return s.deliver(t, m, received)
}

// stageFrom reads the message to its end. received counts the bytes that the
// client sent, without dots that were stuffed.
func (s *session) stageFrom(r io.Reader) (m *message.Message, received int64, err error) {
	w := s.stage.New(message.Options{BareNewlines: s.config.BareNewline})
	if err := copyMessage(w, r); err != nil {
		w.Abort()
		return nil, 0, outlast(r, err)
	}
	m, err = w.Message()
	return m, w.Received(), err
}

// outlast reads the rest of a BDAT message that was not taken in, so that its
// result comes when go-smtp waits for it: an early one may come to lie where
// that of the next message is awaited, if the client has pipelined RSET. DATA
// has no such place, and go-smtp reads the rest itself.
func outlast(r io.Reader, err error) error {
	if _, bdat := r.(*io.PipeReader); !bdat || errors.Is(err, smtp.ErrDataReset) {
		return err
	}
	if _, reset := io.Copy(io.Discard, r); reset != nil {
		return reset
	}
	return err
}

var copyBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

func copyMessage(w io.Writer, r io.Reader) error {
	buf := copyBuffers.Get().(*[32 << 10]byte)
	defer copyBuffers.Put(buf)
	// Without the reader's own WriteTo, which would bring a buffer of its own.
	_, err := io.CopyBuffer(w, struct{ io.Reader }{r}, buf[:])
	return err
}

// stageRefusal is the reply to a message that was not taken in. After a read
// error what the client sends next may be the rest of its message, which must
// not be read as commands.
func (s *session) stageRefusal(err error) *smtp.SMTPError {
	reply := stageReply(err)
	if reply == replyCut {
		s.hangUp(messageCutShort)
	}
	return reply
}

// probe finds out whether a BDAT message came to its end or was cut short
// by an orderly close: go-smtp takes both for the end of the chunk. DATA
// needs no probe, it has its final dot.
func (s *session) probe(r io.Reader) (gone bool) {
	if _, bdat := r.(*io.PipeReader); !bdat {
		return false
	}
	gone, pipelined := s.conn.ended(s.smtp.Conn())
	switch {
	case gone:
		s.hangUp(messageCutShort)
	case pipelined:
		s.hangUp(outOfStep)
	}
	return gone
}

// deliver asks the policy once more, puts the header in order and hands the
// message to the next hop.
func (s *session) deliver(t *transaction, m *message.Message, size int64) error {
	ctx, cancel := context.WithTimeout(s.ctx, replyBound)
	defer cancel()
	r := s.request(t, "", size)
	// go-smtp has no hook between DATA and 354: the data list is asked here.
	if err := s.ask("DATA", t, r, s.policy.AtData(ctx, r)); err != nil {
		return err
	}
	if err := s.ask("DATA", t, r, s.policy.AtEndOfData(ctx, r)); err != nil {
		return err
	}
	ready, err := fixHeader(m, s.fixUps(t))
	if err != nil {
		return s.refuse("DATA", t, "", messageReply(err), cause(err))
	}
	receipt, err := t.hop.Send(ctx, ready)
	if err != nil {
		return s.refuse("DATA", t, "", relayReply(err), cause(err))
	}
	s.log.accepted(t, size, receipt, time.Since(t.begun))
	return accepted(receipt.Text)
}

// fixUps says how the header of t's message is put in order.
func (s *session) fixUps(t *transaction) fixUps {
	return fixUps{
		Sender: t.envelope.Sender,
		Origin: s.config.origin(),
		NewID:  func() string { return newID() + newID() },
		Trace: trace{
			Hide:     s.config.HideClient,
			Helo:     t.envelope.Helo,
			Remote:   s.conn.remote.Addr(),
			Extended: true, // go-smtp does not tell HELO apart; it offers no STARTTLS, so mail is never behind it
			UTF8:     t.envelope.Options.UTF8,
			TLS:      s.tls,
			Login:    s.loggedIn,
			Hostname: s.config.hostname(),
			ID:       t.id,
			Now:      time.Now(),
		},
	}
}
