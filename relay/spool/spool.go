// Package spool accepts messages in place of the next hop while that does not reply,
// keeps them on disk, and delivers them later.
//
// A [Spool] is one folder and the deliveries from it. [Spool.Before] is a
// [relay.Decorator]: each transaction asks the hop first, and only if no hop replies
// within relay.patience does the spool accept the message in its place. A refusal by the
// hop is final. The policy has been applied by then, and signers and milters come before
// the spool, so messages are delivered unchanged.
//
// # Guarantees
//
// The 250 is sent after the file has been written, synced and renamed to its place, and
// the folder has been synced. A message leaves the spool when the hop has replied 250 for
// every recipient, or when a report to its sender is in the spool instead. So nothing is
// lost whenever the process or the machine stops. A recipient may get a message twice: if
// the process stops between the hop's 250 and the record of it, or if the hop does not
// reply to the end of the data, after which the message is tried again (RFC 5321, section
// 4.5.4.1, has no better way).
//
// The hop has not been asked about recipients that the spool accepted. If it refuses one
// later, the sender gets a report (RFC 3464, RFC 6522), as RFC 3461 specifies:
// NOTIFY=NEVER gets none, RET and ENVID are honoured, DELAY is reported after four hours.
// Reports have the null sender and are never reported on themselves. They may be sent to
// another hop than messages (see Deliver), as they are not signed yet.
//
// After a temporary refusal the message is tried again after 1 minute, then 2, and so on
// up to an hour, each plus or minus a quarter. While no hop of a listener replies at all,
// one of its messages at a time is tried until one does. After relay.spool_lifetime and one last attempt the
// message is returned to the sender. The messages of a user are sent one after the other,
// oldest first. A message that waits for its next attempt does not delay the others, and a
// new message that the hop accepts at once overtakes those in the spool.
//
// # The folder
//
//	lock        locked by the server: a second one does not start
//	tmp/ID      being written
//	queue/ID    to be delivered; the file's time is that of its next attempt
//	hold/ID     not tried until it is released
//	bad/ID      damaged: moved here and logged
//
// The folder is the only state, and the server reads it every few seconds. To hold,
// release or remove a message, rename or remove its file; to have it tried, set its time:
// see [Browse].
//
// # The format, version 2
//
//	postern-spool 2 LENGTH CRC32C LF     of the JSON that follows
//	JSON LF                              envelope and recipients: see header
//	message                              as many bytes as "size" in the JSON
//	SHA256 LF                            of the message, in hexadecimal
//	CRC32C SPACE JSON LF                 any number of records: see record
//
// A record is appended for each recipient that is done. Everything else never changes. An
// incomplete record ends the journal. Version 1, which had ENVID and ORCPT decoded, is
// read, too. Another version is another number in the first line and a case in
// readHeader.
//
// # Shares
//
// A user has at most a quarter of the messages and of the bytes in queue/, or as many as the
// configuration says, and so have all clients without a login together (room.go, and package
// share). Reports count for the user of the message, and are not refused.
//
// The package leaves out: delivery by MX, a queue for each destination, editing, and the
// "relayed" reports of RFC 3461, section 5.2.2.
package spool

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/emersion/go-smtp"

	"postern/relay"
	"postern/relay/message"
)

var (
	errClosed  = errors.New("spool: closed")
	errTooMany = &smtp.SMTPError{Code: 452, EnhancedCode: smtp.EnhancedCode{4, 5, 3}, Message: "Too many recipients"}
)

// Config is the part of the section [relay] that is about the spool. Names in parentheses
// are those of Postfix.
type Config struct {
	// Dir is the folder of the spool; empty means that there is no spool and that clients
	// wait for the next hop. (queue_directory)
	Dir string `toml:"spool"`

	// Lifetime is how long a message is tried before it is returned to its sender.
	// (maximal_queue_lifetime, bounce_queue_lifetime)
	Lifetime time.Duration `toml:"spool_lifetime"`

	// Messages is the maximum number of messages; further ones are refused with 452.
	Messages int `toml:"spool_messages"`

	// MessagesPerUser is the maximum of one user, and of all clients without a login
	// together; 0 is a quarter of Messages. It shrinks as the spool fills.
	MessagesPerUser int `toml:"spool_messages_per_user"`
}

// Defaults returns the configuration for an empty file: no spool.
func Defaults() Config {
	return Config{Lifetime: 5 * 24 * time.Hour, Messages: 10000}
}

// Validate calls bad for each key whose value cannot work.
func (c *Config) Validate(bad func(key, why string)) {
	if c.Dir != "" && !filepath.IsAbs(c.Dir) {
		bad("spool", `must be an absolute path, because the server may be started in any folder: write one such as "/var/spool/postern"`)
	}
	if c.Lifetime < time.Minute {
		bad("spool_lifetime", `is too short for a second attempt: write "1m" or more, or leave the key out for five days`)
	}
	if c.Messages < 1 {
		bad("spool_messages", `write 1 or more; to have no spool, leave out the key "spool"`)
	}
	if c.MessagesPerUser < 0 {
		bad("spool_messages_per_user", "must not be negative; write 1 or more, or 0 for a quarter of spool_messages")
	}
}

// Options are the properties of a spool that are not in its Config.
type Options struct {
	Sizes    Sizes
	Hostname string // the host that reports come from
	Origin   string // the domain of the author of reports; empty means Hostname
	Events   Events

	// HopsOf returns the same value for listeners with the same next hops, whose outages
	// are the same. It is called from Deliver on. Nil means that all have the same.
	HopsOf func(listener string) string
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
	index  *index
	stage  *message.Stage
	events Events
	host   string
	origin string
	pace   pace

	messages Acquire
	reports  Acquire // the hop for reports, which signs them
	hopsOf   func(listener string) string

	mu       sync.Mutex
	lifetime time.Duration
	lastID   int64
	closed   bool
	outages  map[string]*outage // by what hopsOf returns

	wake    chan struct{} // of length one: there is something to do
	stop    context.CancelFunc
	done    chan struct{} // closed when run has ended; nil before Deliver
	working sync.WaitGroup
}

// Open locks the folder and reads which messages are in it. cfg must have passed
// Validate. Nothing is delivered before Deliver. Close closes the spool.
func Open(cfg Config, o Options) (*Spool, error) {
	s := &Spool{
		folder: folder{dir: cfg.Dir}, index: &index{byID: map[string]*entry{}, users: map[string]bool{}}, events: o.Events, hopsOf: o.HopsOf, outages: map[string]*outage{},
		host: o.Hostname, origin: cmp.Or(o.Origin, o.Hostname),
		pace: defaultPace(), wake: make(chan struct{}, 1),
	}
	s.Configure(cfg, o.Sizes)
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("relay.spool: %w", err)
	}
	var err error
	if s.lock, err = s.folder.lock(); err != nil {
		return nil, fmt.Errorf("relay.spool: %w", err)
	}
	if err = s.folder.prepare(); err == nil {
		s.stage = message.NewStage(s.folder.path(incoming), stageMemory)
		err = s.scan()
	}
	if err != nil {
		return nil, fmt.Errorf("relay.spool: %w", errors.Join(err, s.lock.Close()))
	}
	return s, nil
}

// stageMemory bounds the headers and reports in memory, in bytes. A large report is
// written to a file.
const stageMemory = 16 << 20

// Configure sets new limits. The folder stays the same.
func (s *Spool) Configure(cfg Config, sizes Sizes) {
	s.index.limit(&cfg, sizes)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lifetime = cfg.Lifetime
}

func (s *Spool) expired(arrived time.Time) bool {
	return time.Now().After(s.deadline(arrived))
}

// deadline returns when a message that came at arrived is given up.
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

// Close ends the deliveries: those that are running have a few seconds to finish. Call it
// after the last transaction. A second call does nothing.
func (s *Spool) Close() error {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.mu.Unlock()
	if closed {
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
	return &hop{s, next}
}

// keep writes a message into the spool, durably, and returns its id. A report replaces
// the message that it reports on, so no limit and no share refuses it.
func (s *Spool) keep(h *header, m *message.Message) (id string, err error) {
	h.Size, h.EightBit = m.Size(), m.EightBit()
	if !h.Report {
		owner := h.owner()
		if err := s.index.reserve(owner, h.Size); err != nil {
			return "", err
		}
		defer s.index.unreserve(owner, h.Size)
	}
	if id, err = s.newID(); err != nil {
		return "", err
	}
	size, err := s.folder.put(id, h, m.Reader())
	if err != nil {
		return "", fmt.Errorf("spool: %w: %w", errFull, err)
	}
	mtime := time.Now()
	if info, err := os.Stat(s.folder.path(queued, id)); err == nil {
		mtime = info.ModTime()
	}
	s.index.add(newEntry(id, size, mtime, &content{header: *h}))
	s.wakeUp()
	return id, nil
}

// wakeUp makes run look for messages to deliver.
func (s *Spool) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// newID returns a file name that sorts in the order of arrival, and that no earlier
// process has used.
func (s *Spool) newID() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return "", errClosed
	}
	s.lastID = max(time.Now().UnixMicro(), s.lastID+1)
	var random [3]byte
	rand.Read(random[:]) // never fails: crypto/rand ends the process instead
	return fmt.Sprintf("%014x", s.lastID) + hex.EncodeToString(random[:]), nil
}

const idLength = 20

// validID reports whether id can be an id. A name such as "../x" cannot, and is never used
// as a path.
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
