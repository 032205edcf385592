package relay

import (
	"context"
	"fmt"
	"time"
)

// maxLate bounds the wait for a hop where nothing else does. RFC 5321, section
// 4.5.3.2.6: a client waits ten minutes for the reply to the end of the data.
const maxLate = 10 * time.Minute

// An Await waits for the hop's reply to the end of the data after Send has
// given up. It is called once, by any goroutine, and ends with the
// reply, with ctx, or after ten minutes. An error means that the hop has
// refused the message, or that its fate stays unknown. The connection has left
// the pool; it is closed when Await returns.
type Await func(ctx context.Context) (Receipt, error)

// leaveBehind offers the connection on which a reply is overdue to Envelope.Late. If
// that takes it, the connection does not count for the pool any more, so that a slow
// message does not delay others.
func (t *transaction) leaveBehind() bool {
	c, hop := t.conn, t.hop
	if t.env.Late == nil || !c.overdue {
		return false
	}
	if !t.env.Late(func(ctx context.Context) (Receipt, error) {
		text, err := c.lateAnswer(ctx)
		if err != nil {
			return Receipt{}, fmt.Errorf("%s: %w", hop, err)
		}
		return Receipt{Hop: hop.String(), Text: text}, nil
	}) {
		return false
	}
	hop.pool.detach(c)
	t.conn, t.sent = nil, 0
	return true
}

// lateAnswer waits for the reply, of which nothing has been read yet, and ends the
// connection with QUIT.
func (c *conn) lateAnswer(ctx context.Context) (text string, err error) {
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
