package auth_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"postern/server/auth"
	"postern/server/auth/hash"
	"postern/server/auth/throttle"
)

// hashes is a backend with one ability: it verifies passwords. The keys are logins, the
// values stored hashes.
type hashes struct {
	users   map[string]string
	checker *hash.Checker
}

func (h hashes) VerifyPassword(ctx context.Context, p *auth.Peer, login, password string) (auth.Identity, error) {
	stored, ok := h.users[login]
	if !ok {
		// An unknown user takes as long as a known one.
		if err := h.checker.Decoy(ctx, hash.DefaultDecoy, password, p.Turn(login)); err != nil {
			return auth.Identity{}, err
		}
		return auth.Identity{}, &auth.Failure{Kind: auth.NoSuchUser}
	}
	right, err := h.checker.Check(ctx, stored, password, p.Turn(login))
	switch {
	case err != nil:
		return auth.Identity{}, err // temporary
	case !right:
		return auth.Identity{}, &auth.Failure{Kind: auth.BadPassword}
	}
	return auth.Identity{User: login}, nil
}

// unreachable is a backend that cannot answer.
type unreachable struct{}

func (unreachable) VerifyPassword(context.Context, *auth.Peer, string, string) (auth.Identity, error) {
	return auth.Identity{}, errors.New("connection refused")
}

const (
	alicesHash = "$2y$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2"
	password   = "correct horse"
)

// newStore returns a store over a backend, with the default settings.
func newStore(name string, b auth.Backend) *auth.Store {
	events := auth.NewLog(slog.New(slog.DiscardHandler))
	return auth.NewStore(auth.StoreSpec{Kind: name, Config: auth.StoreDefaults(), Backend: b, Events: events})
}

// A store bounds the calls of its backend, and answers under its name.
func ExampleStore() {
	s := newStore("people", hashes{map[string]string{"alice": alicesHash}, hash.NewChecker(10 * time.Second)})
	for _, try := range []string{password, "wrong"} {
		id, err := s.VerifyPassword(context.Background(), new(auth.Peer), "alice", try)
		fmt.Printf("%q from %q, error: %v\n", id.User, id.Store, err)
	}
	_, err := s.ScramKeys(context.Background(), new(auth.Peer), "alice")
	fmt.Println(err)
	// Output:
	// "alice" from "people", error: <nil>
	// "" from "", error: auth: wrong password (people)
	// auth: no answer (people): the store does not have this ability
}

// A chain asks its stores in order. While one of them is down, a login that no other store
// accepts is not refused: the error is temporary.
func ExampleChain() {
	chain := auth.Chain{
		newStore("directory", unreachable{}),
		newStore("file", hashes{map[string]string{"alice": alicesHash}, hash.NewChecker(10 * time.Second)}),
	}
	ctx := auth.WithTrace(context.Background(), func(c auth.StoreCall) {
		fmt.Printf("  %s: user %q, error: %v\n", c.Store, c.User, c.Err)
	})
	for _, login := range []string{"alice", "bob"} {
		id, err := chain.Passwords().VerifyPassword(ctx, new(auth.Peer), login, password)
		fmt.Printf("%s: user %q, error: %v\n", login, id.User, err)
	}
	fmt.Println("SCRAM keys:", chain.Keys() != nil)
	// Output:
	//   directory: user "", error: auth: no answer (directory): connection refused
	//   file: user "alice", error: <nil>
	// alice: user "alice", error: <nil>
	//   directory: user "", error: auth: no answer (directory): connection refused
	//   file: user "", error: auth: no such user (file)
	// bob: user "", error: auth: no answer (directory): connection refused
	// SCRAM keys: false
}

// A Local runs the mechanisms that its stores can serve. A session offers them, starts one,
// and passes it the responses of the client.
func ExampleLocal() {
	cfg := auth.Defaults()
	slow := throttle.New(cfg.Throttle())
	chain := auth.Chain{newStore("file", hashes{map[string]string{"alice": alicesHash}, hash.NewChecker(cfg.HashWait)})}
	local := auth.NewLocal(chain, slow, auth.NewScram(slow, nil), cfg)
	peer := &auth.Peer{TLS: &tls.ConnectionState{Version: tls.VersionTLS13, HandshakeComplete: true}}
	fmt.Println(local.Mechanisms(peer))

	ctx, cancel := context.WithTimeout(context.Background(), 110*time.Second)
	defer cancel()
	exchange, err := local.Start(ctx, peer, "LOGIN")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer exchange.Close()
	for _, response := range [][]byte{nil, []byte("alice"), []byte(password)} {
		challenge, done, err := exchange.Next(ctx, response)
		switch {
		case err != nil:
			fmt.Println(err)
		case done:
			fmt.Printf("%+v\n", exchange.Identity())
		default:
			fmt.Printf("%s\n", challenge)
		}
	}
	// Output:
	// [PLAIN LOGIN]
	// Username:
	// Password:
	// {User:alice As:alice Mechanism:LOGIN Store:file}
}
