package relay

import (
	"context"
	"errors"
	"slices"
	"testing"
)

// A step is a NextHop that records its name in Begin and Close.
type step struct {
	NextHop
	name string
	log  *[]string
	err  error
}

func (s step) Begin(ctx context.Context, e *Envelope) (Transaction, error) {
	*s.log = append(*s.log, "begin "+s.name)
	if s.NextHop == nil {
		return nil, nil
	}
	return s.NextHop.Begin(ctx, e)
}

func (s step) Close() error {
	*s.log = append(*s.log, "close "+s.name)
	return s.err
}

// A message meets the steps in the order of the list. They are closed in the reverse of
// the order in which they were made, and an error of one does not keep the others open.
func TestChain(t *testing.T) {
	var log []string
	broken := errors.New("broken")
	decorator := func(name string) Decorator {
		return func(next NextHop) NextHop { return step{next, name, &log, broken} }
	}
	open := func(next NextHop) NextHop { return struct{ NextHop }{next} } // has no Close
	c := NewChain(step{name: "last", log: &log}, decorator("first"), nil, open, decorator("second"))
	if _, err := c.Begin(context.Background(), &Envelope{}); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); !errors.Is(err, broken) {
		t.Errorf("Close: %v", err)
	}
	want := []string{"begin first", "begin second", "begin last", "close first", "close second", "close last"}
	if !slices.Equal(log, want) {
		t.Errorf("got %q, want %q", log, want)
	}
}
