// Package spool accepts messages in place of the next hop while that does not reply,
// keeps them on disk, and delivers them later.
//
// A [Spool] is one folder and the deliverer that empties it. [Spool.Before]
// returns a [relay.NextHop] that holds another one: each transaction asks the hop
// first, and only if no hop replies within relay.patience does the spool accept in its
// place. A refusal of the hop is final. The policy has been applied by then, and
// signers and milters come before the spool, so messages are delivered unchanged.
//
// # What is promised
//
// The 250 comes after the file has been written, synced, renamed to its place,
// and its folder synced. A message leaves the spool when the hop has replied 250
// for every recipient, or when a report to its sender is in the spool instead. So
// nothing is lost whenever the process or the machine stops. A recipient may get a
// message twice: if the process stops between the hop's 250 and the record of it, or if
// the hop does not reply to the end of the data, after which the message is tried again
// (RFC 5321, section 4.5.4.1, has no better way).
//
// The hop has not been asked about recipients that the spool accepted. If it refuses
// one later, the sender gets a report (RFC 3464, RFC 6522), as RFC 3461 asks for:
// NOTIFY=NEVER gets none, RET and ENVID are honoured, DELAY is reported after four
// hours. Reports have the null sender and are never reported on themselves. They may go
// to another hop than messages do (see Deliver), as they are not signed yet.
//
// Temporary refusals are tried again after 1 minute, then 2, and so on up to
// an hour, each give or take a quarter. While no hop replies at all, one
// message at a time finds out when one does. After relay.spool_lifetime and one
// last attempt the message is returned to the sender. The messages of a user are sent
// one after the other, oldest first. One that waits for its next attempt does
// not hold up the others, and a new one that the hop takes at once overtakes
// those in the spool.
//
// # The folder
//
//	lock        held by the server: a second one does not start
//	tmp/ID      being written
//	queue/ID    to be delivered; the file's time is that of its next attempt
//	hold/ID     left alone
//	bad/ID      damaged: set aside and logged
//
// The folder is the only state, and the server reads it every few seconds. To
// hold, release or remove a message, rename or remove its file; to
// have it tried, set its time: see [Browse].
//
// # The format, version 2
//
//	postern-spool 2 LENGTH CRC32C LF     of the JSON that follows
//	JSON LF                              envelope and recipients: see header
//	message                              as many bytes as "size" in the JSON
//	SHA256 LF                            of the message, in hexadecimal
//	CRC32C SPACE JSON LF                 any number of records: see record
//
// Records are appended as recipients are done. Everything else never changes. An
// incomplete record ends the journal. Version 1, which had ENVID and ORCPT decoded, is
// read, too. Another version is another number in the first line and a case in
// readHeader.
//
// The package leaves out: delivery by MX, a queue for each destination,
// editing, and the "relayed" reports of RFC 3461, section 5.2.2.
package spool

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/emersion/go-smtp"

	"postern/relay"
	"postern/relay/message"
)

var (
	errClosed  = errors.New("spool: closed")
	errTooMany = &smtp.SMTPError{Code: 452, EnhancedCode: smtp.EnhancedCode{4, 5, 3}, Message: "Too many recipients"}

	// RFC 5321 4.2.2, RFC 3463 3.4.
	errFull = &smtp.SMTPError{Code: 452, EnhancedCode: smtp.EnhancedCode{4, 3, 1}, Message: "Insufficient system storage"}
)

// Options are what a spool is besides its section of the configuration.
type Options struct {
	Bytes    int64  // of all messages together
	Hostname string // for reports: the host that they come from
	Origin   string // and the domain of their author; empty: Hostname
	Events   Events
}

// An Acquire function returns the hop for one delivery of a message that came in on
// listener, so that each delivery uses the newest configuration. release is called at
// the end of the delivery. An unknown listener, as after a change of the configuration,
// must get the default hop.
type Acquire func(listener string) (hop relay.NextHop, release func())

// A Spool is an open folder. It may be used by many goroutines at once.
type Spool struct {
	folder folder
	lock   *os.File
	ledger *ledger
	stage  *message.Stage
	events Events
	host   string
	origin string
	pace   pace

	messages Acquire
	reports  Acquire // the hop for reports, which signs them

	mu       sync.Mutex
	lifetime time.Duration
	lastID   int64
	closed   bool

	wake    chan struct{} // holds one: there is something to do
	stop    context.CancelFunc
	done    chan struct{} // closed when the deliverer has ended; nil without one
	working sync.WaitGroup
	outage  outage
}

// Open locks the folder and reads what is in it. cfg must have passed
// Validate. Nothing is delivered before Deliver. Close closes the spool.
func Open(cfg Config, o Options) (*Spool, error) {
	s := &Spool{
		folder: folder{dir: cfg.Dir}, ledger: newLedger(), events: o.Events,
		host: o.Hostname, origin: cmp.Or(o.Origin, o.Hostname),
		pace: usualPace(), wake: make(chan struct{}, 1),
	}
	s.Configure(cfg, o.Bytes)
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("relay.spool: %w", err)
	}
	var err error
	if s.lock, err = s.folder.lock(); err != nil {
		return nil, fmt.Errorf("relay.spool: %w", err)
	}
	if err := s.load(); err != nil {
		return nil, fmt.Errorf("relay.spool: %w", errors.Join(err, s.lock.Close()))
	}
	return s, nil
}

func (s *Spool) load() error {
	if err := s.folder.prepare(); err != nil {
		return err
	}
	s.stage = message.NewStage(s.folder.path(incoming), stageMemory)
	return s.look()
}

// stageMemory bounds the headers and reports in memory. A report that is
// larger than a message may be in memory waits in a file.
const stageMemory = 16 << 20

// Configure puts new limits in force. The folder stays the same.
func (s *Spool) Configure(cfg Config, bytes int64) {
	s.ledger.limit(cfg.Messages, bytes)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lifetime = cfg.Lifetime
}

func (s *Spool) expired(arrived time.Time) bool {
	return time.Now().After(s.deadline(arrived))
}

// deadline is when a message that came at arrived is given up.
func (s *Spool) deadline(arrived time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return arrived.Add(s.lifetime)
}

// Deliver begins to deliver messages and reports, each over the hop that its function
// returns. Messages passed the signer before they were spooled; reports did not. It is
// called once.
func (s *Spool) Deliver(messages, reports Acquire) {
	s.messages, s.reports = messages, reports
	var ctx context.Context
	ctx, s.stop = context.WithCancel(context.Background())
	s.done = make(chan struct{})
	go s.run(ctx)
}

// Close ends the deliveries: those under way have a few seconds to finish. It
// is for after the last transaction.
func (s *Spool) Close() error {
	s.mu.Lock()
	again := s.closed
	s.closed = true
	s.mu.Unlock()
	if again {
		return nil
	}
	if s.done != nil {
		s.stop()
		<-s.done
	}
	return s.lock.Close()
}

// Before is a relay.Decorator: it returns a NextHop that sends messages to next, and
// spools them while next does not reply. If s is nil, there is no spool, and it returns
// next itself.
func (s *Spool) Before(next relay.NextHop) relay.NextHop {
	if s == nil {
		return next
	}
	return &front{s, next}
}

// keep writes a message into the spool, durably, and returns its id. A report
// takes the place of what it reports on, so there is room for it.
func (s *Spool) keep(h *header, m *message.Message) (id string, err error) {
	h.Size, h.EightBit = m.Size(), m.EightBit()
	if !h.Report {
		if !s.ledger.reserve(h.Size) {
			return "", fmt.Errorf("spool: %w: the limit of messages or bytes is reached", errFull)
		}
		defer s.ledger.settle(h.Size)
	}
	if id, err = s.newID(); err != nil {
		return "", err
	}
	size, err := s.folder.put(id, h, m.Reader())
	if err != nil {
		return "", fmt.Errorf("spool: %w: %w", errFull, err)
	}
	s.enter(id, size, h)
	return id, nil
}

// enter notes a file that has just been written.
func (s *Spool) enter(id string, size int64, h *header) {
	mtime := time.Now()
	if info, err := os.Stat(s.folder.path(queued, id)); err == nil {
		mtime = info.ModTime()
	}
	s.ledger.add(newEntry(id, size, mtime, &content{header: *h}))
	s.rouse()
}

// rouse has the deliverer look for work.
func (s *Spool) rouse() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// newID makes a name by which files sort in the order of their arrival, and
// which no earlier process has used.
func (s *Spool) newID() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return "", errClosed
	}
	s.lastID = max(time.Now().UnixMicro(), s.lastID+1)
	var random [3]byte
	if _, err := io.ReadFull(rand.Reader, random[:]); err != nil {
		return "", err
	}
	return fmt.Sprintf("%014x", s.lastID) + hex.EncodeToString(random[:]), nil
}

const idLength = 20

// validID makes sure that a name which is not an id, such as "../x", is never a path.
func validID(id string) bool {
	if len(id) != idLength {
		return false
	}
	for _, c := range []byte(id) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
