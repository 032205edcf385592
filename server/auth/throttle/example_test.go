package throttle_test

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"postern/server/auth/throttle"
)

// After a wrong guess, the next login from the same address waits for two seconds, or is
// refused if that is longer than MaxWait. A login that has succeeded from the address before
// is verified without delay.
func Example() {
	t := throttle.New(throttle.Config{MaxWait: time.Second})
	client := netip.MustParseAddr("192.0.2.1")
	logIn := func(login string, result throttle.Result) {
		attempt, err := t.Acquire(context.Background(), client, login)
		if err != nil {
			fmt.Printf("%s: %v\n", login, err)
			return
		}
		// Here the password is verified.
		attempt.Done(throttle.Outcome{Result: result, User: login})
		fmt.Printf("%s: verified, known before: %v\n", login, attempt.Known)
	}
	logIn("alice", throttle.Success)
	logIn("eve", throttle.WrongGuess)
	logIn("eve", throttle.WrongGuess)
	logIn("alice", throttle.Success)
	// Output:
	// alice: verified, known before: false
	// eve: verified, known before: false
	// eve: auth: too many failed logins from this address
	// alice: verified, known before: true
}
