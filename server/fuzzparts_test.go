package server

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-smtp"
	"github.com/xdg-go/scram"

	"postern/relay"
	"postern/relay/message"
	"postern/server/auth"
	"postern/server/auth/hash"
	"postern/server/auth/throttle"
)

// A fuzzStore holds the passwords and keys of fuzzUsers.
type fuzzStore map[string]auth.ScramKeys

// provider offers PLAIN, LOGIN and SCRAM, without penalties for wrong passwords.
func (s *fuzzServer) provider(t testing.TB) auth.Provider {
	t.Helper()
	cfg := auth.Defaults()
	cfg.PenaltyExempt = []auth.Network{auth.Network(netip.MustParsePrefix("0.0.0.0/0"))}
	store := fuzzStore{}
	for _, u := range fuzzUsers {
		client, err := scram.SHA256.NewClient(u.login, u.password, "")
		if err != nil {
			t.Fatal(err)
		}
		s.scrams[u.login+" "+u.password] = client
		if u.user == "" {
			continue
		}
		salt := []byte("salt of " + u.login)
		c, err := client.GetStoredCredentialsWithError(scram.KeyFactors{Salt: string(salt), Iters: 4096})
		if err != nil {
			t.Fatal(err)
		}
		store[u.login] = auth.ScramKeys{
			ScramKeys: hash.ScramKeys{Salt: salt, Iterations: 4096, StoredKey: c.StoredKey, ServerKey: c.ServerKey},
			User:      u.user, Store: "users",
		}
	}
	return auth.Local{Passwords: store, Keys: store, Scram: auth.NewScram(throttle.New(cfg.Throttle()), nil)}
}

func (s *fuzzServer) scram(u fuzzUser) *scram.ClientConversation {
	return s.scrams[u.login+" "+u.password].NewConversation()
}

func (fuzzStore) VerifyPassword(_ context.Context, _ *auth.Peer, login, password string) (auth.Identity, error) {
	if login == "down" {
		return auth.Identity{}, errors.New("dial unix /run/store: no such file")
	}
	i := slices.IndexFunc(fuzzUsers, func(u fuzzUser) bool { return u.login == login && u.password == password && u.user != "" })
	if i < 0 {
		return auth.Identity{}, &auth.Failure{Kind: auth.Unknowable, Store: "users"}
	}
	return auth.Identity{User: fuzzUsers[i].user, Store: "users"}, nil
}

func (f fuzzStore) ScramKeys(_ context.Context, _ *auth.Peer, login string) (auth.ScramKeys, error) {
	keys, ok := f[login]
	switch {
	case login == "down":
		return auth.ScramKeys{}, errors.New("dial unix /run/store: no such file")
	case !ok:
		return auth.ScramKeys{}, &auth.Failure{Kind: auth.NoSuchUser, Store: "users"}
	}
	return keys, nil
}

func (fuzzStore) ScramDecoy(login string) auth.ScramDecoy {
	return auth.ScramDecoy{Login: login, ScramShape: hash.ScramShape{Iterations: 4096, SaltLength: 13}}
}

// owners is the relay with rules for senders. It keeps what it was asked.
type owners struct {
	relay.NextHop

	mu    sync.Mutex
	asked []question          // RCPT
	sent  map[string]dispatch // by queue id
}

// A question is a recipient that the relay was asked about.
type question struct {
	envelope *relay.Envelope
	to       string
}

// A dispatch is a message that the relay has a receipt for.
type dispatch struct {
	envelope *relay.Envelope
	to       []string
}

var errNotOwner = &smtp.SMTPError{Code: 553, EnhancedCode: smtp.EnhancedCode{5, 7, 1}, Message: "Not yours"}

func (o *owners) Begin(ctx context.Context, e *relay.Envelope) (relay.Transaction, error) {
	tx, err := o.NextHop.Begin(ctx, e)
	return &owned{Transaction: tx, owners: o, envelope: e}, err
}

// mayUse reports whether a login may send as sender.
func mayUse(login, sender string) bool {
	for _, u := range fuzzUsers[:2] {
		if u.user == login {
			return slices.Contains(u.senders, sender)
		}
	}
	return login == "" && !strings.HasSuffix(sender, "@example.org")
}

type owned struct {
	relay.Transaction
	owners   *owners
	envelope *relay.Envelope
	to       []string
}

func (t *owned) Rcpt(ctx context.Context, to string, opts *smtp.RcptOptions) error {
	t.owners.mu.Lock()
	t.owners.asked = append(t.owners.asked, question{t.envelope, to})
	t.owners.mu.Unlock()
	if !mayUse(t.envelope.Login, t.envelope.Sender) {
		return errNotOwner
	}
	err := t.Transaction.Rcpt(ctx, to, opts)
	if err == nil {
		t.to = append(t.to, to)
	}
	return err
}

func (t *owned) Send(ctx context.Context, m *message.Message) (relay.Receipt, error) {
	r, err := t.Transaction.Send(ctx, m)
	if err == nil {
		t.owners.mu.Lock()
		defer t.owners.mu.Unlock()
		if t.owners.sent == nil {
			t.owners.sent = map[string]dispatch{}
		}
		t.owners.sent[queuedAs(r.Text)] = dispatch{t.envelope, t.to}
	}
	return r, err
}

func (o *owners) take() ([]question, map[string]dispatch) {
	o.mu.Lock()
	defer o.mu.Unlock()
	asked, sent := o.asked, o.sent
	o.asked, o.sent = nil, nil
	return asked, sent
}
