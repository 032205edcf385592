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
	err := s.receive(r)
	if errors.Is(err, smtp.ErrDataReset) {
		// RSET, or the end of the session, in the middle of BDAT. Nobody waits
		// for a result any more, and go-smtp's only place for one may be the
		// next message's by now: this goroutine ends without any.
		runtime.Goexit()
	}
	return err
}

func (s *session) receive(r io.Reader) error {
	bdat, _ := r.(*io.PipeReader)
	if bdat == nil {
		if refusal := s.askData(); refusal != nil {
			s.conn.takeBack()
			return refusal
		}
	}
	m, received, err := s.take(bdat)
	if errors.Is(err, smtp.ErrDataReset) {
		return err // the transaction is gone already, and its place may be taken
	}
	if err == nil {
		defer func() { _ = m.Close() }()
	}
	// From here on nobody else is at work: with BDAT, go-smtp waits for us.
	t := s.current()
	if t == nil {
		return replyClosing
	}
	if err != nil {
		return s.refuse("DATA", t, "", s.stageRefusal(err), err)
	}
	if bdat != nil {
		if refusal := s.askData(); refusal != nil {
			return refusal
		}
	}
	return s.deliver(t, m, received)
}

// askData asks the data list, behind DATA before 354. There is no such place
// with BDAT, where it is asked when the message has come.
func (s *session) askData() error {
	t := s.current()
	if t == nil {
		return replyClosing
	}
	ctx, cancel := context.WithTimeout(s.ctx, replyBound)
	defer cancel()
	r := s.request(t, "", t.envelope.Options.Size)
	return s.ask("DATA", t, r, s.policy.AtData(ctx, r))
}

// take stages the message: what comes through bdat, or, where that is nil, what
// comes behind DATA. received counts the bytes that the client sent, without dots
// that were stuffed.
func (s *session) take(bdat *io.PipeReader) (m *message.Message, received int64, err error) {
	w := s.stage.New(message.Options{BareNewlines: s.config.BareNewline})
	if bdat != nil {
		err = outlast(bdat, copyMessage(w, bdat))
	} else {
		err = s.conn.readMessage(w, s.smtp.Server().MaxMessageBytes)
	}
	if err != nil {
		w.Abort()
		return nil, 0, err
	}
	m, err = w.Message()
	return m, w.Received(), err
}

// outlast reads the rest of a BDAT message that was not taken in, so that its
// result comes when go-smtp waits for it: an early one may come to lie where
// that of the next message is awaited, if the client has pipelined RSET.
func outlast(r io.Reader, err error) error {
	if err == nil || errors.Is(err, smtp.ErrDataReset) {
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
		s.conn.hangUp(messageCutShort)
	}
	return reply
}

// deliver asks the policy once more, puts the header in order and hands the
// message to the next hop.
func (s *session) deliver(t *transaction, m *message.Message, size int64) error {
	ctx, cancel := context.WithTimeout(s.ctx, replyBound)
	defer cancel()
	r := s.request(t, "", size)
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
			Extended: s.conn.extended,
			UTF8:     t.envelope.Options.UTF8,
			TLS:      s.tls,
			Login:    s.loggedIn,
			Hostname: s.config.hostname(),
			ID:       t.id,
			Now:      time.Now(),
		},
	}
}
