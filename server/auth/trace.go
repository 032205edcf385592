package auth

import (
	"context"
	"time"
)

// A Question is one request to one store for one login, and the answer.
type Question struct {
	Store string
	Login string        // as the store saw it; empty if it was not asked
	Took  time.Duration // the wait for its turn included
	User  string        // the canonical name, if the answer was yes
	Err   error         // a *Failure or an *Unavailable, if it was not
}

type traceKey struct{}

// WithTrace returns a context for [Exchange.Next] in which trace is called for every
// question to a store of a [Chain], as soon as it is answered, by the goroutine
// that runs the exchange. The login in a question is what a client
// has written; nothing in it is safe to print as it is.
func WithTrace(ctx context.Context, trace func(Question)) context.Context {
	return context.WithValue(ctx, traceKey{}, trace)
}

// tell calls the trace function of ctx, if there is one.
func tell(ctx context.Context, q Question) {
	if trace, ok := ctx.Value(traceKey{}).(func(Question)); ok {
		trace(q)
	}
}
