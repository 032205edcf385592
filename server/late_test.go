package server

import (
	"context"
	"testing"

	"postern/relay"
	"postern/test/kit"
)

// TestLateAnswers: the number of late answers that are awaited is bounded, and close ends
// all waits.
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
	outcomes := make(chan string, maxLateAnswers+1)
	observe := func(r relay.Receipt, err error) {
		if err != nil {
			r.Text = err.Error()
		}
		outcomes <- r.Text
	}
	for n := range maxLateAnswers {
		if !l.wait(await, observe) {
			t.Fatalf("only %d are awaited", n)
		}
	}
	if l.wait(await, observe) {
		t.Error("one more is awaited")
	}
	answers <- "Ok"
	if text := <-outcomes; text != "Ok" {
		t.Errorf("the outcome is %q", text)
	}
	kit.Eventually(t, "there is room for one more", func() bool { return l.wait(await, observe) })
	l.close()
	for range maxLateAnswers {
		if text := <-outcomes; text != context.Canceled.Error() {
			t.Errorf("the outcome is %q", text)
		}
	}
	if l.wait(await, observe) {
		t.Error("one is awaited after the end")
	}
	l.close() // a second Shutdown
}
