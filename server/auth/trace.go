package auth

import (
	"context"
	"time"
)

// A Question is what one store was asked for one login, and what it said.
type Question struct {
	Store string
	Login string        // as the store saw it; empty if it was not asked
	Took  time.Duration // the wait for its turn included
	User  string        // the canonical name, if the answer was yes
	Err   error         // a *Failure or an *Unavailable, if it was not
}

type traceKey struct{}

// WithTrace returns a context for [Exchange.Next] in which trace hears of every
// question to a store of a [Chain], as soon as it is answered. It is called by
// the goroutine that runs the exchange. The login in a question is what a client
// has written; nothing in it is safe to print as it is.
func WithTrace(ctx context.Context, trace func(Question)) context.Context {
	return context.WithValue(ctx, traceKey{}, trace)
}

// tell passes a question on to whoever traces.
func tell(ctx context.Context, q Question) {
	if trace, ok := ctx.Value(traceKey{}).(func(Question)); ok {
		trace(q)
	}
}
