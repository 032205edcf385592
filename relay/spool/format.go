package spool

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/netip"
	"slices"
	"time"

	"github.com/emersion/go-smtp"

	"postern/internal/dsn"
	"postern/internal/share"
	"postern/relay"
)

// The versions of the format. In the first, ENVID and ORCPT were decoded, as go-smtp's
// server hands them over; JSON cannot hold all of their octets. Now they are as the
// client sent them. Files of both versions are read, those of the second are written.
const (
	magic        = "postern-spool"
	decodedTexts = 1
	version      = 2
)

const (
	maxEnvelope = 4 << 20 // bytes of the JSON
	maxJournal  = 8 << 20
	sumLine     = 2*sha256.Size + 1
)

// errDamaged means that the file is not as it was written. Reading it again does not help.
var errDamaged = errors.New("damaged")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errDamaged, fmt.Sprintf(format, args...))
}

// A header is the first part of a file. It is never changed.
type header struct {
	Arrived  time.Time   `json:"arrived"`
	Reason   string      `json:"reason"` // why it was not delivered at once
	Size     int64       `json:"size"`   // of the message, in bytes
	EightBit bool        `json:"eight_bit,omitempty"`
	Report   bool        `json:"report,omitempty"` // the message is a report that the spool wrote
	Envelope envelope    `json:"envelope"`
	To       []recipient `json:"to"`
}

// An envelope is a relay.Envelope on disk.
type envelope struct {
	Session    string `json:"session,omitempty"`
	Listener   string `json:"listener,omitempty"`
	Remote     string `json:"remote,omitempty"`
	Helo       string `json:"helo,omitempty"`
	Login      string `json:"login,omitempty"`
	Users      string `json:"users,omitempty"`
	Mechanism  string `json:"mechanism,omitempty"`
	MaySign    bool   `json:"may_sign,omitempty"`
	Sender     string `json:"sender"`
	Body       string `json:"body,omitempty"`
	UTF8       bool   `json:"utf8,omitempty"`
	Return     string `json:"ret,omitempty"`
	EnvelopeID string `json:"envid,omitempty"` // xtext
}

// A recipient is one RCPT on disk.
type recipient struct {
	Address  string              `json:"address"`
	Notify   []smtp.DSNNotify    `json:"notify,omitempty"`
	Original string              `json:"original,omitempty"` // the address of ORCPT, encoded
	Kind     smtp.DSNAddressType `json:"kind,omitempty"`     // the address type of ORCPT
}

func newEnvelope(e *relay.Envelope) envelope {
	o := e.Options
	return envelope{
		Session: e.Session, Listener: e.Listener, Remote: e.Remote.String(), Helo: e.Helo,
		Login: e.Login, Users: e.Users, Mechanism: e.Mechanism, MaySign: e.MaySign, Sender: e.Sender,
		Body: string(o.Body), UTF8: o.UTF8, Return: string(o.Return), EnvelopeID: o.EnvelopeID,
	}
}

// relay returns the envelope for the next hop.
func (e *envelope) relay(size int64) *relay.Envelope {
	remote, _ := netip.ParseAddrPort(e.Remote) // for the log and the owner only
	return &relay.Envelope{
		Session: e.Session, Listener: e.Listener, Remote: remote, Helo: e.Helo,
		Login: e.Login, Users: e.Users, Mechanism: e.Mechanism, MaySign: e.MaySign, Sender: e.Sender,
		Options: smtp.MailOptions{
			Body: smtp.BodyType(e.Body), Size: size, UTF8: e.UTF8,
			Return: smtp.DSNReturn(e.Return), EnvelopeID: e.EnvelopeID,
		},
	}
}

// owner returns whose share the message counts for. A report without a user counts for the
// strangers in the client's network: that it may be signed says nothing about the client.
func (h *header) owner() share.Owner {
	e := h.Envelope.relay(h.Size)
	e.MaySign = e.MaySign && !h.Report
	return e.Owner()
}

func newRecipient(to string, o *smtp.RcptOptions) recipient {
	r := recipient{Address: to}
	if o != nil {
		r.Notify, r.Original, r.Kind = o.Notify, o.OriginalRecipient, o.OriginalRecipientType
	}
	return r
}

func (r *recipient) options() *smtp.RcptOptions {
	return &smtp.RcptOptions{Notify: r.Notify, OriginalRecipient: r.Original, OriginalRecipientType: r.Kind}
}

// wants reports whether the sender is to get this kind of report.
//
// RFC 3461, section 4.1: without NOTIFY, a failure is reported. Whether a delay is, is
// up to the server; the spool reports it only on request.
func (r *recipient) wants(what smtp.DSNNotify) bool {
	if len(r.Notify) == 0 {
		return what == smtp.DSNNotifyFailure
	}
	return slices.Contains(r.Notify, what)
}

// A record is one entry of the journal: the result of an attempt.
type record struct {
	Time    time.Time `json:"time"`
	Done    []int     `json:"done,omitempty"`    // indexes of recipients that need nothing more
	Delayed bool      `json:"delayed,omitempty"` // the delay has been reported to the sender
	Tries   int       `json:"tries"`             // so far
	Reason  string    `json:"reason,omitempty"`  // of the last attempt
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encodeHeader returns the part of the file before the message.
func encodeHeader(h *header) ([]byte, error) {
	text, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	if len(text) > maxEnvelope {
		return nil, errTooMany
	}
	return fmt.Appendf(nil, "%s %d %d %08x\n%s\n", magic, version, len(text), crc32.Checksum(text, castagnoli), text), nil
}

func encodeRecord(r *record) ([]byte, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%08x %s\n", crc32.Checksum(text, castagnoli), text), nil
}

// A content is the result of parse.
type content struct {
	header
	start   int64 // offset of the message
	journal int64 // offset of the next record, after the last complete one
	done    []bool
	delayed bool
	tries   int
	reason  string
}

// parse reads everything in a file except the message, which verify reads.
// The error is errDamaged if the file is at fault, and any other if the disk is.
func parse(f io.ReaderAt, size int64) (*content, error) {
	in := bufio.NewReader(io.NewSectionReader(f, 0, size))
	c := &content{}
	var err error
	if c.start, err = c.readHeader(in); err != nil {
		return nil, err
	}
	c.journal = c.start + c.Size + sumLine
	if c.Size < 0 || c.journal < c.Size || c.journal > size {
		return nil, damaged("the file has %d bytes, and the message alone should have %d", size, c.Size)
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	c.done = make([]bool, len(c.To))
	rest := min(size-c.journal, maxJournal)
	return c, c.readJournal(bufio.NewReader(io.NewSectionReader(f, c.journal, rest)))
}

// readHeader returns the offset of the message.
func (c *content) readHeader(in *bufio.Reader) (int64, error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return 0, cutShort(err)
	}
	first := int64(len(line))
	var v, n int
	var sum uint32
	if _, err := fmt.Sscanf(string(line), magic+" %d %d %08x\n", &v, &n, &sum); err != nil || n < 0 || n > maxEnvelope {
		return 0, damaged("the first line is not that of a spooled message")
	}
	if v != decodedTexts && v != version {
		return 0, damaged("version %d of the format; this postern reads %d and %d", v, decodedTexts, version)
	}
	text := make([]byte, n+1)
	if _, err := io.ReadFull(in, text); err != nil {
		return 0, cutShort(err)
	}
	if text[n] != '\n' || crc32.Checksum(text[:n], castagnoli) != sum {
		return 0, damaged("the checksum of the envelope is wrong")
	}
	if err := json.Unmarshal(text[:n], &c.header); err != nil {
		return 0, damaged("the envelope cannot be read: %v", err)
	}
	if v == decodedTexts {
		c.header.encodeTexts()
	}
	// Files from before may_sign: those of users and the reports may be signed. For those of
	// clients in mynetworks that is not known, and not needed, since a message is signed
	// before it is spooled.
	c.Envelope.MaySign = c.Envelope.MaySign || c.Envelope.Login != "" || c.Report
	return first + int64(n) + 1, nil
}

// encodeTexts turns the decoded ENVID and ORCPT of the first version into text as a
// client sends it. The first version allowed longer addresses in ORCPT, and control
// characters in those of the type utf-8; such an ORCPT is left out, as it is optional
// and the message is not.
func (h *header) encodeTexts() {
	h.Envelope.EnvelopeID = dsn.EncodeXtext(h.Envelope.EnvelopeID)
	for i := range h.To {
		to := &h.To[i]
		if to.Kind == smtp.DSNAddressTypeUTF8 {
			to.Original = dsn.EncodeUTF8(to.Original)
		} else {
			to.Original = dsn.EncodeXtext(to.Original)
		}
		if !dsn.ValidOriginalRecipient(string(to.Kind), to.Original, false) {
			to.Original, to.Kind = "", ""
		}
	}
}

// cutShort returns errDamaged for an error at the end of the file.
func cutShort(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, bufio.ErrBufferFull) {
		return damaged("it ends too early")
	}
	return err
}

// check validates the envelope as for a client's, since a file may have been changed.
func (c *content) check() error {
	if len(c.To) == 0 {
		return damaged("it has no recipients")
	}
	e := c.Envelope.relay(c.Size)
	for i := range c.To {
		if err := relay.CheckRecipient(e, c.To[i].Address, c.To[i].options()); err != nil {
			return damaged("recipient %d: %v", i, err)
		}
	}
	return nil
}

// readJournal applies all records up to the first incomplete one, at which a crash
// stopped the last writer. That record is lost: a recipient may get the message
// twice, but none goes without it.
func (c *content) readJournal(in *bufio.Reader) error {
	for {
		line, err := in.ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		var r record
		if err != nil || !decodeRecord(line, &r) || !c.apply(&r) {
			return nil
		}
		c.journal += int64(len(line))
	}
}

func decodeRecord(line []byte, r *record) bool {
	var sum uint32
	text, ok := bytes.CutSuffix(line, []byte("\n"))
	if !ok || len(text) < 9 || text[8] != ' ' {
		return false
	}
	if _, err := fmt.Sscanf(string(text[:8]), "%08x", &sum); err != nil {
		return false
	}
	text = text[9:]
	return crc32.Checksum(text, castagnoli) == sum && json.Unmarshal(text, r) == nil
}

// apply applies r, and reports whether it fits the message.
func (c *content) apply(r *record) bool {
	for _, i := range r.Done {
		if i < 0 || i >= len(c.done) {
			return false
		}
	}
	for _, i := range r.Done {
		c.done[i] = true
	}
	c.delayed = c.delayed || r.Delayed
	c.tries, c.reason = r.Tries, r.Reason
	return true
}

// verify reads the message and compares it with its checksum.
func (c *content) verify(f io.ReaderAt) error {
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, c.start, c.Size)); err != nil {
		return err
	}
	line := make([]byte, sumLine)
	if _, err := f.ReadAt(line, c.start+c.Size); err != nil {
		return cutShort(err)
	}
	if string(line) != hex.EncodeToString(sum.Sum(nil))+"\n" {
		return damaged("the checksum of the message is wrong")
	}
	return nil
}

// pending returns the indexes of the recipients that do not have the message yet.
func (c *content) pending() []int {
	var all []int
	for i, done := range c.done {
		if !done {
			all = append(all, i)
		}
	}
	return all
}
