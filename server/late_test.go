package server

import (
	"context"
	"testing"

	"postern/relay"
	"postern/test/kit"
)

// The waits for late answers have a bound and an end.
func TestLateAnswers(t *testing.T) {
	l := newLateAnswers()
	answers := make(chan string)
	await := func(ctx context.Context) (relay.Receipt, error) {
		select {
		case text := <-answers:
			return relay.Receipt{Text: text}, nil
		case <-ctx.Done():
			return relay.Receipt{}, ctx.Err()
		}
	}
	told := make(chan string, maxLateAnswers+1)
	tell := func(r relay.Receipt, err error) {
		if err != nil {
			r.Text = err.Error()
		}
		told <- r.Text
	}
	for n := range maxLateAnswers {
		if !l.wait(await, tell) {
			t.Fatalf("only %d are awaited", n)
		}
	}
	if l.wait(await, tell) {
		t.Error("one more is awaited")
	}
	answers <- "Ok"
	if text := <-told; text != "Ok" {
		t.Errorf("told %q", text)
	}
	kit.Eventually(t, "there is room for one more", func() bool { return l.wait(await, tell) })
	l.close()
	for range maxLateAnswers {
		if text := <-told; text != context.Canceled.Error() {
			t.Errorf("told %q", text)
		}
	}
	if l.wait(await, tell) {
		t.Error("one is awaited after the end")
	}
	l.close() // a second Shutdown
}
