package main

import (
	"context"
	"errors"
	"testing"

	"postern/server/auth"
)

// A fakeStore answers everybody the same, and remembers that it was asked and
// closed.
type fakeStore struct {
	id            auth.Identity
	err           error
	asked, closed bool
}

func (s *fakeStore) VerifyPassword(context.Context, *auth.Peer, string, string) (auth.Identity, error) {
	s.asked = true
	return s.id, s.err
}

func (s *fakeStore) Close() error {
	s.closed = true
	return nil
}

// What moves on to the next store, and what ends the search.
func TestStoresInOrder(t *testing.T) {
	down := errors.New("connection refused")
	no := func(kind auth.FailureKind) error { return &auth.Failure{Kind: kind, Store: "first"} }
	tests := []struct {
		name   string
		first  error
		asked  bool // the second store
		answer error
	}{
		{"yes", nil, false, nil},
		{"no such user", no(auth.NoSuchUser), true, nil},
		{"no without a reason", no(auth.Unknowable), true, nil},
		{"wrong password", no(auth.BadPassword), false, no(auth.BadPassword)},
		{"disabled", no(auth.Disabled), false, no(auth.Disabled)},
		{"expired", no(auth.Expired), false, no(auth.Expired)},
		{"not allowed", no(auth.NotAllowed), false, no(auth.NotAllowed)},
		{"out of order", down, false, down},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			first := &fakeStore{err: tt.first}
			second := &fakeStore{id: auth.Identity{User: "alice", Store: "second"}}
			_, err := (&openStores{first, second}).VerifyPassword(t.Context(), &auth.Peer{}, "alice", "secret")
			if second.asked != tt.asked {
				t.Errorf("the second store was asked: %v", second.asked)
			}
			if (err == nil) != (tt.answer == nil) || err != nil && err.Error() != tt.answer.Error() {
				t.Errorf("got %v, want %v", err, tt.answer)
			}
		})
	}
}

func TestStoresClose(t *testing.T) {
	stores := openStores{&fakeStore{}, &fakeStore{}}
	if err := stores.Close(); err != nil {
		t.Fatal(err)
	}
	for i, s := range stores {
		if !s.(*fakeStore).closed {
			t.Errorf("store %d is open still", i)
		}
	}
}
