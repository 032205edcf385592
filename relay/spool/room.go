package spool

import (
	"cmp"
	"fmt"

	"github.com/emersion/go-smtp"

	"postern/internal/share"
)

// RFC 5321 4.2.2, RFC 3463 3.4.
var errFull = &smtp.SMTPError{Code: 452, EnhancedCode: smtp.EnhancedCode{4, 3, 1}, Message: "Insufficient system storage"}

// Sizes are the limits of the spool in bytes. They are not in Config, because a size in the
// configuration is of a type of the server.
type Sizes struct {
	Total   int64 // of all messages together
	PerUser int64 // of one user; 0 is a quarter of Total
	Message int64 // of the largest message that clients may send, which every user may spool
}

// fileRoom is what a file has besides the message as the client sent it: added fields and an
// ordinary envelope.
const fileRoom = 64 << 10

// limit sets the limits, of messages and of bytes. A user holds at most its part, and so do
// all clients without a login together, by network; see package share.
func (x *index) limit(cfg *Config, s Sizes) {
	messages := share.Quarter(int64(cfg.Messages), 1)
	messages.Each = cmp.Or(int64(cfg.MessagesPerUser), messages.Each)
	x.messages.SetLimits(messages)
	bytes := share.Quarter(s.Total, s.Message+fileRoom)
	bytes.Each = cmp.Or(s.PerUser, bytes.Each)
	x.bytes.SetLimits(bytes)
}

// reserve reserves room for one more message of owner until unreserve.
func (x *index) reserve(owner share.Owner, size int64) error {
	if r := x.messages.Take(owner, 1); r != nil {
		return noRoom(r, "messages", "relay.spool_messages")
	}
	if r := x.bytes.Take(owner, size); r != nil {
		x.messages.Give(owner, 1)
		return noRoom(r, "bytes", "relay.spool_size")
	}
	return nil
}

func (x *index) unreserve(owner share.Owner, size int64) {
	x.messages.Give(owner, 1)
	x.bytes.Give(owner, size)
}

// check returns the error that reserve would return now.
func (x *index) check(owner share.Owner, size int64) error {
	if r := x.messages.Check(owner, 1); r != nil {
		return noRoom(r, "messages", "relay.spool_messages")
	}
	if r := x.bytes.Check(owner, size); r != nil {
		return noRoom(r, "bytes", "relay.spool_size")
	}
	return nil
}

// noRoom returns the refusal of a message, with the reason and the next step for the log.
func noRoom(r *share.Refusal, unit, key string) error {
	if r.Full() {
		return fmt.Errorf("spool: %w: %s is used up: %d of %d %s; repair the next hop, remove messages with \"postern queue\", or raise %[2]s",
			errFull, key, r.Held, r.Limit, unit)
	}
	return fmt.Errorf("spool: %w: the share of %s in the spool is used up: %d %s, and %d are allowed now; "+
		"remove some with \"postern queue\", or raise %s_per_user or %[6]s", errFull, r.Who, r.Held, unit, r.Limit, key)
}
