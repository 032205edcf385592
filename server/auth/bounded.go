package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"time"

	"postern/server/auth/gate"
)

// ErrBusy is the cause of a temporary error: as many logins as the store's
// concurrency allows are being examined, and none has ended in time.
var ErrBusy = errors.New("auth: too many logins are waiting for this store")

// errSlow is the cause when a store's time is over.
var errSlow = errors.New("no answer within its timeout")

// bounded keeps a backend within bounds: so many questions at once, each for so
// long, and a panic is an error. Who has logged in before goes first.
type bounded struct {
	name    string
	timeout time.Duration
	gate    *gate.Gate
	log     *slog.Logger
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

// run waits for a place, for as long as the question itself may take, and asks.
func (b *bounded) run(ctx context.Context, first bool, ask func(context.Context) error) error {
	if err := b.enter(ctx, first); err != nil {
		return err
	}
	defer b.gate.Leave()
	ctx, cancel := context.WithTimeoutCause(ctx, b.timeout, errSlow)
	defer cancel()
	err := b.survive(ctx, ask)
	if err != nil && asFailure(err) == nil && errors.Is(context.Cause(ctx), errSlow) {
		return fmt.Errorf("%w of %v: %w", errSlow, b.timeout, err)
	}
	return err
}

func (b *bounded) enter(ctx context.Context, first bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, b.timeout, ErrBusy)
	defer cancel()
	return b.gate.Enter(ctx, first)
}

// survive makes an error of a panic: one broken backend must not end the mail of
// all. What was thrown may hold a password, so only its type is kept, or the text
// of the runtime's own errors, which repeat no data.
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
		b.log.Error("store panicked; this is a bug, please report it", "store", b.name, "err", err, "stack", string(debug.Stack()))
	}()
	return ask(ctx)
}
