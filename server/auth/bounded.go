package auth

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"time"

	"postern/server/auth/semaphore"
)

// ErrBusy is the cause of a temporary error: as many logins as the store's
// concurrency allows are being examined, and none has ended in time.
var ErrBusy = errors.New("auth: too many logins are waiting for this store")

// errSlow is the cause when a store's time is over.
var errSlow = errors.New("no answer within its timeout")

// bounded limits how many logins a backend verifies at once, and for how long, and
// turns a panic into an error. Clients that have logged in before go first.
type bounded struct {
	name    string
	timeout time.Duration
	slots   *semaphore.Priority
	events  Events
	backend PasswordVerifier
}

// VerifyPassword implements PasswordVerifier.
func (b *bounded) VerifyPassword(ctx context.Context, p *Peer, login, password string) (id Identity, err error) {
	err = b.run(ctx, p.Known, func(ctx context.Context) (err error) {
		id, err = b.backend.VerifyPassword(ctx, p, login, password)
		if err == nil && id.User == "" {
			err = errNoUser
		}
		return err
	})
	if err != nil {
		return Identity{}, err
	}
	return id, nil
}

// scramKeys asks the backend as one that keeps keys.
func (b *bounded) scramKeys(ctx context.Context, k KeyStore, login string) (keys ScramKeys, err error) {
	err = b.run(ctx, false, func(ctx context.Context) (err error) {
		keys, err = k.ScramKeys(ctx, login)
		if err == nil && keys.User == "" {
			err = errNoUser
		}
		return err
	})
	if err != nil {
		return ScramKeys{}, err
	}
	return keys, nil
}

// run waits until the backend may be asked, at most for the timeout, and then asks it,
// which may take as long again.
func (b *bounded) run(ctx context.Context, first bool, ask func(context.Context) error) error {
	waiting, cancel := context.WithTimeoutCause(ctx, b.timeout, ErrBusy)
	err := b.slots.Acquire(waiting, first)
	cancel()
	if err != nil {
		return err
	}
	defer b.slots.Release()
	ctx, cancel = context.WithTimeoutCause(ctx, b.timeout, errSlow)
	defer cancel()
	err = b.survive(ctx, ask)
	if err != nil && asFailure(err) == nil && errors.Is(context.Cause(ctx), errSlow) {
		return fmt.Errorf("%w of %v: %w", errSlow, b.timeout, err)
	}
	return err
}

// survive turns a panic into an error: one broken backend must not end the process. The
// value of the panic may contain a password, so only its type is kept, or the text of
// an error of the runtime, which repeats no data.
func (b *bounded) survive(ctx context.Context, ask func(context.Context) error) (err error) {
	defer func() {
		switch thrown := recover().(type) {
		case nil:
			return
		case runtime.Error:
			err = fmt.Errorf("panic: %v", thrown)
		default:
			err = fmt.Errorf("panic with a %T", thrown)
		}
		b.events.StorePanicked(b.name, err, debug.Stack())
	}()
	return ask(ctx)
}
