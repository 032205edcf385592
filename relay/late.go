package relay

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// maxLate is how long a hop may be waited for when nobody else sets a bound.
// RFC 5321 4.5.3.2.6: a client gives the end of the data ten minutes.
const maxLate = 10 * time.Minute

// An Await waits for the hop's answer to the end of the data after Send has
// given up waiting. It is called once, by any goroutine, and ends with the
// answer, with ctx, or after ten minutes. An error means that the hop has
// refused the message, or that nobody will ever know. The connection has left
// the pool; it is closed when Await returns.
type Await func(ctx context.Context) (Receipt, error)

// leaveBehind offers the connection on which an answer is overdue to the one
// who began the transaction. Its seat is free then: one slow message is not to
// keep others waiting.
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
	hop.pool.part(c)
	t.conn, t.held = nil, 0
	return true
}

// lateAnswer waits on the bare wire, in which nothing of the answer has been
// read yet, and says goodbye.
func (c *conn) lateAnswer(ctx context.Context) (text string, err error) {
	defer c.drop()
	bound := c.wire.within(ctx, maxLate)
	r, err := c.wire.reply()
	bound.end()
	if err != nil {
		return "", fmt.Errorf("%w: %w", errUncertain, err)
	}
	text = cleanLine(strings.Join(r.lines(), " ")) // before the next reply takes its place
	bound = c.wire.within(ctx, quitTimeout)
	_, _ = c.wire.command("QUIT", 221) // nobody waits for the answer
	bound.end()
	if r.code != 250 {
		return "", fmt.Errorf("the hop has refused the message at last: %d %s", r.code, text)
	}
	return text, nil
}
