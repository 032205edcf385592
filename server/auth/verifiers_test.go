package auth

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"postern/server/auth/throttle"
)

func TestPreparePassword(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"ASCII stays", "pass word~!", "pass word~!"},
		{"composed stays", "caf\u00e9", "caf\u00e9"},
		{"decomposed is composed", "cafe\u0301", "caf\u00e9"},
		{"non-ASCII space becomes a space", "a\u00a0b\u00e9", "a b\u00e9"},
		{"case stays", "\u00c9t\u00e9", "\u00c9t\u00e9"},
		{"not UTF-8 stays", "caf\xe9", "caf\xe9"},
		{"control characters stay", "\u00e9\x07", "\u00e9\x07"},
		{"longest", strings.Repeat("e\u0301", 1365), strings.Repeat("\u00e9", 1365)}, // 4,095 octets
		{"too long stays", strings.Repeat("e\u0301", 1366), strings.Repeat("e\u0301", 1366)},
	}
	for _, tt := range tests {
		if got := PreparePassword(tt.in); got != tt.want {
			t.Errorf("%s: %q became %q, want %q", tt.name, tt.in, got, tt.want)
		}
	}
}

func TestPreparedAsksInOrder(t *testing.T) {
	const composed, decomposed = "caf\u00e9", "cafe\u0301"
	tests := []struct {
		name, login, sent string
		asked             []string
		ok                bool
	}{
		{"stored composed", "composed", decomposed, []string{composed}, true},
		{"stored as typed", "decomposed", decomposed, []string{composed, decomposed}, true},
		{"prepared already", "composed", composed, []string{composed}, true},
		{"ASCII is asked once", "composed", "no", []string{"no"}, false},
		{"wrong", "composed", "e\u0301", []string{"\u00e9", "e\u0301"}, false},
		{"too long is asked once", "composed", strings.Repeat("e\u0301", 1366), []string{strings.Repeat("e\u0301", 1366)}, false},
		{"unknown users cost as much", "nobody", "e\u0301", []string{"\u00e9", "e\u0301"}, false},
		{"disabled is an answer", "disabled", decomposed, []string{composed}, false},
		{"broken is no answer", "broken", decomposed, []string{composed}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var asked []string
			store := &fakeStore{users: map[string]string{"composed": composed, "decomposed": decomposed}}
			v := WithPRECIS(verifierFunc(func(ctx context.Context, p *Peer, login, password string) (Identity, error) {
				asked = append(asked, password)
				switch login {
				case "disabled":
					return Identity{}, &Failure{Kind: Disabled}
				case "broken":
					return Identity{}, errors.New("broken")
				}
				return store.VerifyPassword(ctx, p, login, password)
			}))
			_, err := v.VerifyPassword(t.Context(), tlsPeer(), tt.login, tt.sent)
			if (err == nil) != tt.ok {
				t.Errorf("error %v", err)
			}
			if !slices.Equal(asked, tt.asked) {
				t.Errorf("asked %q, want %q", asked, tt.asked)
			}
		})
	}
}

func TestOnlyGuessesCountAgainstTheClient(t *testing.T) {
	refused := func(k FailureKind) error { return &Unavailable{Err: errDown, Refused: &Failure{Kind: k}} }
	tests := []struct {
		err  error
		want throttle.Result
	}{
		{nil, throttle.Success},
		{&Failure{Kind: NoSuchUser}, throttle.WrongGuess},
		{&Failure{Kind: Unknowable}, throttle.WrongGuess},
		{&Failure{Kind: BadPassword}, throttle.WrongGuess},
		{&Failure{Kind: Disabled}, throttle.Undecided},
		{&Failure{Kind: Expired}, throttle.Undecided},
		{&Failure{Kind: NotAllowed}, throttle.Undecided},
		{errors.New("broken"), throttle.Undecided},
		{context.Canceled, throttle.Undecided},
		{&Unavailable{Err: errDown}, throttle.Undecided},
		{refused(BadPassword), throttle.WrongGuess},
		{refused(NoSuchUser), throttle.Undecided},
		{refused(Disabled), throttle.Undecided},
		{&Unavailable{Err: errDown, Unanswered: true}, throttle.Unanswered},
		{ErrAbandoned, throttle.Undecided},
	}
	for _, tt := range tests {
		o := OutcomeOf(tt.err, Identity{User: "alice", Store: "users"}, "secret")
		if o.Result != tt.want || (o.User != "") != (tt.err == nil) || (o.Secret != "") != (o.Result == throttle.WrongGuess || o.Result == throttle.Unanswered) {
			t.Errorf("%v: %+v, want result %v", tt.err, o, tt.want)
		}
	}
}

func TestThrottledSetsKnown(t *testing.T) {
	var known []bool
	v := Throttled(newThrottle(), verifierFunc(func(_ context.Context, p *Peer, login, _ string) (Identity, error) {
		known = append(known, p.Known)
		return Identity{User: login}, nil
	}))
	p := tlsPeer()
	for _, login := range []string{"alice", "bob", "alice"} {
		if _, err := v.VerifyPassword(t.Context(), p, login, "secret"); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(known, []bool{false, false, true}) {
		t.Errorf("known %v", known)
	}
	if p.Known {
		t.Error("the session's peer was changed")
	}
}

func TestThrottledReleasesItsSlotAfterAPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken, slow := true, newThrottle()
		v := Throttled(slow, verifierFunc(func(_ context.Context, _ *Peer, login, _ string) (Identity, error) {
			if broken {
				panic("bug")
			}
			return Identity{User: login}, nil
		}))
		for range 100 { // more than a throttle has slots
			func() {
				defer func() { recover() }()
				v.VerifyPassword(t.Context(), tlsPeer(), "alice", "x")
			}()
		}
		broken = false
		begun := time.Now()
		if _, err := v.VerifyPassword(t.Context(), tlsPeer(), "alice", "x"); err != nil || time.Since(begun) != 0 {
			t.Errorf("after %v: %v", time.Since(begun), err)
		}
	})
}
