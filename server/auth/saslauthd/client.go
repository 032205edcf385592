package saslauthd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"
)

// A daemon whose line of waiting connections is full refuses the next one at
// once: a Unix socket does not wait for room. So this is tried again.
const (
	firstPause   = 5 * time.Millisecond
	longestPause = 200 * time.Millisecond
)

// Dial connects to the socket at path. It waits as long as ctx allows while the
// daemon has more to do than it takes; any other error says what to do.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		conn, err := d.DialContext(ctx, "unix", path)
		switch {
		case err == nil:
			return conn, nil
		case !errors.Is(err, syscall.EAGAIN):
			return nil, explain(path, err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, fmt.Errorf("%s has more waiting connections than it takes: %w", path, context.Cause(ctx))
		}
	}
}

// Ask sends r on conn, reads the answer, and closes conn in any case. It ends
// with ctx. An error is a [*FieldError] if nothing was sent.
func Ask(ctx context.Context, conn net.Conn, r Request) (Answer, error) {
	defer conn.Close()
	text, err := r.Append(nil)
	if err != nil {
		return Answer{}, err
	}
	// The deadline of ctx ends it too, and so does its cancellation.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	// A daemon that refuses early may hang up before it has read everything,
	// and its answer is there nevertheless.
	_, sent := conn.Write(text)
	a, err := ReadAnswer(conn)
	switch {
	case err == nil:
		return a, nil
	case ctx.Err() != nil:
		return Answer{}, fmt.Errorf("no answer in time: %w", context.Cause(ctx))
	case sent != nil:
		return Answer{}, fmt.Errorf("hung up before it had heard the question: %w", sent)
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return Answer{}, fmt.Errorf("hung up without an answer: %w", err)
	}
	return Answer{}, fmt.Errorf("hung up in the middle of its answer: %w", err)
}
