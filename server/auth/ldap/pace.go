package ldap

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"postern/server/auth"
)

// longestPause keeps a slow server from making every unknown user slow.
const longestPause = time.Second

// A pace is how long the bind of a user takes of late. Where a search finds
// nobody there is no bind: the answer waits for as long, so that time does not
// tell who exists.
type pace struct{ average atomic.Int64 } // time.Duration

// saw takes a bind into the average. Two at once may lose one of them, which
// does no harm.
func (p *pace) saw(took time.Duration) {
	average := p.average.Load()
	if average == 0 {
		p.average.Store(int64(took))
		return
	}
	p.average.Store(average + (int64(took)-average)/8)
}

// after returns err, later if it says that there is no such user.
func (p *pace) after(ctx context.Context, err error) error {
	f, ok := errors.AsType[*auth.Failure](err)
	if !ok || f.Kind != auth.NoSuchUser {
		return err
	}
	timer := time.NewTimer(min(time.Duration(p.average.Load()), longestPause))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return err
}
