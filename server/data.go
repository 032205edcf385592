package server

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"runtime"
	"sync"
	"time"

	"github.com/emersion/go-smtp"

	"postern/relay"
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
	t := s.current()
	if t == nil {
		return replyClosing
	}
	if bdat != nil {
		close(t.taking)
	} else if refusal := s.askData(t); refusal != nil {
		s.conn.takeBack()
		return refusal
	}
	var content hash.Hash
	if s.receipts != nil {
		content = sha256.New()
	}
	m, received, err := s.take(t, bdat, content)
	if errors.Is(err, smtp.ErrDataReset) {
		return err // the transaction is gone already
	}
	// From here on nobody else is at work: with BDAT, go-smtp waits for us.
	if err != nil {
		return s.refuse("DATA", t, "", s.stageRefusal(err), err)
	}
	defer func() { _ = m.Close() }()
	if bdat != nil {
		if refusal := s.askData(t); refusal != nil {
			return refusal
		}
	}
	t.fingerprint.content = content
	return s.deliver(t, m, received)
}

// askData asks the data list, behind DATA before 354. There is no such place
// with BDAT, where it is asked when the message has come.
func (s *session) askData(t *transaction) error {
	ctx, cancel := context.WithTimeout(s.conn.ctx, replyBound)
	defer cancel()
	r := s.request(t, "", t.envelope.Options.Size)
	return s.ask("DATA", t, r, s.policy.AtData(ctx, r))
}

// take stages the message of t: what comes through bdat, or, where that is nil, what
// comes behind DATA. It shows all of it to content, if that is not nil. received
// counts the bytes that the client sent, without dots that were stuffed.
func (s *session) take(t *transaction, bdat *io.PipeReader, content hash.Hash) (m *message.Message, received int64, err error) {
	w := s.stage.New(message.Options{BareNewlines: s.config.BareNewline, Size: t.envelope.Options.Size})
	var to io.Writer = w
	if content != nil {
		to = io.MultiWriter(w, content)
	}
	if bdat != nil {
		err = outlast(bdat, copyMessage(to, bdat))
	} else {
		err = s.conn.readMessage(to, s.smtp.Server().MaxMessageBytes)
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

// deliver asks the policy once more and hands the message on.
func (s *session) deliver(t *transaction, m *message.Message, size int64) error {
	ctx, cancel := context.WithTimeout(s.conn.ctx, replyBound)
	defer cancel()
	r := s.request(t, "", size)
	if err := s.ask("DATA", t, r, s.policy.AtEndOfData(ctx, r)); err != nil {
		return err
	}
	if s.receipts != nil {
		return s.sendOnce(ctx, t, m, size)
	}
	said, err := s.send(ctx, t, m, size)
	if err != nil {
		return err
	}
	return accepted(said.Text)
}

// send puts the header in order and hands the message to the next hop. The
// error is the reply.
func (s *session) send(ctx context.Context, t *transaction, m *message.Message, size int64) (relay.Receipt, error) {
	ready, err := fixHeader(m, s.fixUps(t))
	if err != nil {
		return relay.Receipt{}, s.refuse("DATA", t, "", messageReply(err), cause(err))
	}
	said, err := t.hop.Send(ctx, ready)
	if err != nil {
		return relay.Receipt{}, s.refuse("DATA", t, "", relayReply(err), cause(err))
	}
	s.log.accepted(t, size, said, time.Since(t.begun))
	return said, nil
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
			TLS:      s.facts,
			Login:    s.loggedIn,
			Hostname: s.config.hostname(),
			ID:       t.id,
			Now:      time.Now(),
		},
	}
}
