package relay

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// maxLate bounds the wait for a hop where nothing else does. RFC 5321, section
// 4.5.3.2.6: a client waits ten minutes for the reply to the end of the data.
const maxLate = 10 * time.Minute

// An OverdueError is returned by Send if the time was over and the hop had sent nothing in
// reply to the end of the data, so that it is not known whether it has the message
// (IsUncertain is true). The connection is still open. The caller of Send must call either
// Await or Abandon, exactly once, or return the error to its own caller.
type OverdueError struct {
	Err error

	// Await waits for the reply, and closes the connection. It may be called by any
	// goroutine, after the end of the transaction, too, and returns when the reply has
	// come, when ctx ends, or after ten minutes. An error means that the hop has refused
	// the message, or that it will never be known whether the hop has it.
	Await func(ctx context.Context) (Receipt, error)

	// Abandon closes the connection without waiting.
	Abandon func()
}

func (e *OverdueError) Error() string { return e.Err.Error() }
func (e *OverdueError) Unwrap() error { return e.Err }

// Abandon calls Abandon of the OverdueError that err is, if it is one.
func Abandon(err error) {
	if overdue, ok := errors.AsType[*OverdueError](err); ok {
		overdue.Abandon()
	}
}

// overdue takes the connection, on which a reply is overdue, out of the pool, so that a
// slow message does not delay others.
func (t *transaction) overdue(err error) *OverdueError {
	c, hop := t.conn, t.hop
	hop.pool.slots.release(c.user)
	t.conn, t.sent = nil, 0
	await := func(ctx context.Context) (Receipt, error) {
		text, err := c.lateReply(ctx)
		if err != nil {
			return Receipt{}, fmt.Errorf("%s: %w", hop, err)
		}
		return Receipt{Hop: hop.String(), Text: text}, nil
	}
	return &OverdueError{Err: err, Await: await, Abandon: func() { c.raw.Close() }}
}

// lateReply waits for the reply, of which nothing has been read yet, and ends the
// connection with QUIT.
func (c *conn) lateReply(ctx context.Context) (text string, err error) {
	defer c.raw.Close()
	bound := c.within(ctx, maxLate)
	r, err := c.reply()
	bound.end()
	if err != nil {
		return "", fmt.Errorf("%w: %w", errUncertain, err)
	}
	text = r.receiptText() // before the next reply takes its place
	bound = c.within(ctx, quitTimeout)
	_, _ = c.command("QUIT", 221) // the connection is closed in any case
	bound.end()
	if r.code != 250 {
		return "", fmt.Errorf("the hop has refused the message at last: %d %s", r.code, text)
	}
	return text, nil
}
