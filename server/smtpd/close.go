package smtpd

import (
	"sync"
	"time"
)

// A closing records whether and how the server closes the connection. Any goroutine may use
// it.
type closing struct {
	mu       sync.Mutex
	decided  bool   // before the next read
	draining bool   // as soon as no transaction is in flight
	busy     bool   // a transaction is in flight
	farewell *Reply // the last reply; nil: there is none
}

// CloseAfterReply closes the connection after the current reply. A farewell that is not nil
// is sent as one more reply. Further pipelined commands are not executed. Only the first
// call has an effect.
func (c *Conn) CloseAfterReply(farewell *Reply) {
	c.closing.mu.Lock()
	defer c.closing.mu.Unlock()
	if !c.closing.decided {
		c.closing.decided, c.closing.farewell = true, farewell
	}
}

// authGrace is how long an AUTH in progress may delay CloseIdle.
const authGrace = 2 * time.Second

// CloseIdle closes the connection with farewell: at once if there is no transaction,
// otherwise after the transaction. Any goroutine may call it.
func (c *Conn) CloseIdle(farewell *Reply) {
	c.closing.mu.Lock()
	defer c.closing.mu.Unlock()
	if c.closing.decided || c.closing.draining {
		return
	}
	c.closing.draining, c.closing.farewell = true, farewell
	if !c.closing.busy {
		c.closeWaiting()
	}
}

// CloseIfIdle is CloseIdle for a connection without a transaction. With one it does
// nothing and reports false. Any goroutine may call it.
func (c *Conn) CloseIfIdle(farewell *Reply) bool {
	c.closing.mu.Lock()
	defer c.closing.mu.Unlock()
	switch {
	case c.closing.decided: // it is being closed already
		return true
	case c.closing.busy:
		return false
	}
	c.closing.draining, c.closing.farewell = true, farewell
	c.closeWaiting()
	return true
}

// closeWaiting has the connection closed before its next command. The caller has locked
// closing.mu.
func (c *Conn) closeWaiting() {
	c.closing.decided = true
	// AUTH may wait for a store that does not answer, or for a penalty to end.
	time.AfterFunc(authGrace, func() { c.cancel(ErrClosed) })
	// Wake the read that waits for the next command. fill sets its deadline before it
	// checks whether the connection is closing, so it cannot replace this one unnoticed.
	_ = c.transport.Conn.SetReadDeadline(time.Unix(1, 0))
}

// Abort closes the connection at once, without a reply, whatever its state. Any goroutine
// may call it.
func (c *Conn) Abort(reason error) {
	c.cancel(reason)
	_ = c.transport.Conn.Close()
}

// setBusy notes whether a transaction is in flight.
func (c *Conn) setBusy(busy bool) {
	c.closing.mu.Lock()
	defer c.closing.mu.Unlock()
	c.closing.busy = busy
	c.closing.decided = c.closing.decided || c.closing.draining && !busy
}

func (c *Conn) isClosing() bool {
	c.closing.mu.Lock()
	defer c.closing.mu.Unlock()
	return c.closing.decided
}
