package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var errDown = errors.New("connection refused")

// answering returns a backend with one answer for every login.
func answering(answer any) verifierFunc {
	return func(_ context.Context, _ *Peer, login, _ string) (Identity, error) {
		switch a := answer.(type) {
		case string:
			return Identity{User: a, Store: "backend"}, nil
		case FailureKind:
			return Identity{}, &Failure{Kind: a, Store: "backend"}
		default:
			return Identity{}, a.(error)
		}
	}
}

// newTestStore returns a store with default settings, changed by change.
func newTestStore(name string, backend Backend, change ...func(*StoreSpec)) *Store {
	spec := StoreSpec{Kind: name, Config: StoreDefaults(), Backend: backend, Events: NewLog(slog.New(slog.DiscardHandler))}
	for _, c := range change {
		c(&spec)
	}
	return NewStore(spec)
}

func onFailure(o OnFailure) func(*StoreSpec) {
	return func(s *StoreSpec) { s.Config.OnFailure = o }
}

// result returns the answer of a chain in one line.
func result(id Identity, err error) string {
	var f *Failure
	var u *Unavailable
	switch {
	case err == nil:
		return fmt.Sprintf("yes: %s (%s)", id.User, id.Store)
	case errors.As(err, &f):
		return fmt.Sprintf("%v (%s)", f.Kind, f.Store)
	case errors.As(err, &u) && u.Refused != nil:
		return fmt.Sprintf("later (%s), while %v (%s)", u.Store, u.Refused.Kind, u.Refused.Store)
	case errors.As(err, &u):
		return fmt.Sprintf("later (%s)", u.Store)
	}
	return err.Error()
}

func TestChain(t *testing.T) {
	tests := []struct {
		first       any
		on          OnFailure
		second      any
		want        string
		secondAsked bool
	}{
		{"alice", "", NoSuchUser, "yes: alice (one)", false},
		{NoSuchUser, "", "alice", "yes: alice (two)", true},
		{Unknowable, "", "alice", "yes: alice (two)", true},
		{BadPassword, "", "alice", "wrong password (one)", false},
		{Disabled, "", "alice", "account disabled (one)", false},
		{Expired, "", "alice", "password expired (one)", false},
		{NotAllowed, "", "alice", "not allowed (one)", false},

		{NoSuchUser, "", BadPassword, "wrong password (two)", true},
		{NoSuchUser, "", NoSuchUser, "no such user (one)", true},
		{NoSuchUser, "", Unknowable, "refused (two)", true},
		{Unknowable, "", NoSuchUser, "refused (one)", true},
		{Unknowable, "", Disabled, "account disabled (two)", true},

		{BadPassword, OnFailureNext, "alice", "yes: alice (two)", true},
		{BadPassword, OnFailureNext, NoSuchUser, "wrong password (one)", true},
		{Disabled, OnFailureNext, BadPassword, "account disabled (one)", true},
		{Disabled, OnFailureNext, Expired, "account disabled (one)", true},
		{NoSuchUser, OnFailureStop, "alice", "no such user (one)", false},
		{Unknowable, OnFailureStop, "alice", "refused (one)", false},

		{errDown, "", "alice", "yes: alice (two)", true},
		{errDown, OnFailureNext, "alice", "yes: alice (two)", true},
		{errDown, OnFailureStop, "alice", "later (one)", false},
		{errDown, "", NoSuchUser, "later (one), while no such user (two)", true},
		{errDown, "", BadPassword, "later (one), while wrong password (two)", true},
		{errDown, "", Disabled, "later (one), while account disabled (two)", true},
		{errDown, "", errDown, "later (one)", true},
		{NoSuchUser, "", errDown, "later (two), while no such user (one)", true},
		{Unknowable, "", errDown, "later (two), while refused (one)", true},
		{BadPassword, "", errDown, "wrong password (one)", false},
		{BadPassword, OnFailureNext, errDown, "later (two), while wrong password (one)", true},
		{&Unavailable{Store: "inner", Err: errDown}, "", NoSuchUser, "later (one), while no such user (two)", true},
		{"", "", NoSuchUser, "later (one), while no such user (two)", true},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%v %s %v", tt.first, tt.on, tt.second), func(t *testing.T) {
			asked := false
			second := verifierFunc(func(ctx context.Context, p *Peer, login, password string) (Identity, error) {
				asked = true
				return answering(tt.second)(ctx, p, login, password)
			})
			c := Chain{newTestStore("one", answering(tt.first), onFailure(tt.on)), newTestStore("two", second)}
			if got := result(c.Passwords().VerifyPassword(t.Context(), tlsPeer(), "alice", "secret")); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if asked != tt.secondAsked {
				t.Errorf("second store asked: %v", asked)
			}
		})
	}
}

func TestChainOfNoStores(t *testing.T) {
	if (Chain{}).Passwords() != nil || (Chain{}).Keys() != nil {
		t.Error("has abilities")
	}
	if got := result(passwordChain{}.VerifyPassword(t.Context(), tlsPeer(), "alice", "secret")); got != "later ()" {
		t.Errorf("got %s", got)
	}
}

// A store whose template does not fit the login is not asked, and refuses nothing.
func TestChainSkipsStoresWhoseTemplateDoesNotFit(t *testing.T) {
	fail := verifierFunc(func(_ context.Context, _ *Peer, login, _ string) (Identity, error) {
		t.Errorf("asked for %q", login)
		return Identity{}, errDown
	})
	local := func(s *StoreSpec) {
		s.Config.Login, s.Realm, s.Config.OnFailure = localPart, "example.org", OnFailureStop
	}
	c := Chain{newTestStore("pam", fail, local), newTestStore("file", answering("alice@example.net"))}
	if got := result(c.Passwords().VerifyPassword(t.Context(), tlsPeer(), "alice@example.net", "secret")); got != "yes: alice@example.net (file)" {
		t.Errorf("got %s", got)
	}
	if got := result(c[:1].Passwords().VerifyPassword(t.Context(), tlsPeer(), "alice@example.net", "secret")); got != "no such user (pam)" {
		t.Errorf("alone: %s", got)
	}
}

func TestTrace(t *testing.T) {
	local := func(s *StoreSpec) { s.Config.Login, s.Realm = localPart, "example.org" }
	whole := func(s *StoreSpec) { s.Realm = "example.org" }
	c := Chain{
		newTestStore("pam", answering(Unknowable), local),
		newTestStore("ldap", answering(errDown), whole),
		newTestStore("sql", answering("alice"), whole),
		newTestStore("never", answering("alice")),
	}
	for login, want := range map[string][]string{
		"alice": {
			`pam "alice": auth: refused (pam)`,
			`ldap "alice@example.org": auth: no answer (ldap): connection refused`,
			`sql "alice@example.org": alice`,
		},
		"alice@example.net": {
			`pam "": auth: no such user (pam): the domain of the login is not auth.realm, and the template drops the domain`,
			`ldap "alice@example.net": auth: no answer (ldap): connection refused`,
			`sql "alice@example.net": alice`,
		},
	} {
		var got []string
		ctx := WithTrace(t.Context(), func(c StoreCall) {
			line := fmt.Sprintf("%s %q: %s", c.Store, c.Login, c.User)
			if c.Err != nil {
				line += c.Err.Error()
			}
			got = append(got, line)
		})
		l := Local{Passwords: Throttled(newThrottle(), WithPRECIS(c.Passwords()))}
		x, err := l.Start(t.Context(), tlsPeer(), "PLAIN")
		if err != nil {
			t.Fatal(err)
		}
		if _, done, err := x.Next(ctx, []byte("\x00"+login+"\x00secret")); !done || err != nil {
			t.Errorf("%s: %v", login, err)
		}
		x.Close()
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n got %s\nwant %s", login, strings.Join(got, "\n     "), strings.Join(want, "\n     "))
		}
		if strings.Contains(fmt.Sprint(got), "secret") {
			t.Error("the password is in the trace")
		}
	}
}

// While a store is down, guessing at the others must not become cheaper.
func TestThrottleCountsWhatAnotherStoreRefuses(t *testing.T) {
	tests := []struct {
		second FailureKind
		slowed bool
	}{{BadPassword, true}, {NoSuchUser, false}, {Unknowable, false}, {Disabled, false}}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			c := Chain{newTestStore("down", answering(errDown)), newTestStore("up", answering(tt.second))}
			v := Throttled(newThrottle(), c.Passwords())
			begun := time.Now()
			for i := range 2 {
				_, err := v.VerifyPassword(t.Context(), tlsPeer(), "alice", fmt.Sprint("guess ", i))
				if u, ok := errors.AsType[*Unavailable](err); !ok || u.Store != "down" {
					t.Errorf("got %v", err)
				}
			}
			if slowed := time.Since(begun) > 0; slowed != tt.slowed {
				t.Errorf("%v: slowed down: %v", tt.second, slowed)
			}
		})
	}
}

// optional is a backend with the methods that backends may have.
type optional struct {
	verifierFunc
	calls *[]string
}

func (o optional) Check(context.Context) error  { return o.call("check") }
func (o optional) Reload(context.Context) error { return o.call("reload") }
func (o optional) Close() error                 { return o.call("close") }

func (o optional) WithoutScramKeys() []string      { return []string{"alice"} }
func (o optional) WithTooManyIterations() []string { return []string{"bob"} }

func (o optional) call(name string) error {
	*o.calls = append(*o.calls, name)
	return errDown
}

func TestStoresCallOptionalMethods(t *testing.T) {
	var calls []string
	c := Chain{newTestStore("plain", answering("alice")), newTestStore("rich", optional{answering("alice"), &calls})}
	if err := c[0].Check(t.Context()); err != nil {
		t.Errorf("check: %v", err)
	}
	for _, err := range []error{c[1].Check(t.Context()), c.Reload(t.Context()), c.Close()} {
		if !errors.Is(err, errDown) {
			t.Errorf("got %v", err)
		}
	}
	if got := strings.Join(calls, " "); got != "check reload close" {
		t.Errorf("calls: %s", got)
	}
	without, many := c[0].LockedOutOfScram()
	if len(without)+len(many) != 0 {
		t.Errorf("the plain store lists %v and %v", without, many)
	}
	if without, many = c[1].LockedOutOfScram(); len(without) != 1 || len(many) != 1 {
		t.Errorf("the other store lists %v and %v", without, many)
	}
}

// onlyKeys is a backend that keeps SCRAM keys and does not verify passwords.
type onlyKeys struct{ KeyStore }

func TestStoresWithOneAbility(t *testing.T) {
	keys := func() *Store { return newTestStore("keys", onlyKeys{users()}) }
	passwords := func() *Store { return newTestStore("passwords", answering("alice")) }
	tests := []struct {
		name       string
		chain      Chain
		mechanisms string
		password   string // the result of VerifyPassword
		keys       string // the store that has the keys of Alice
	}{
		{"keys", Chain{keys()}, "SCRAM-SHA-256-PLUS SCRAM-SHA-256", "", "keys"},
		{"passwords", Chain{passwords()}, "PLAIN LOGIN", "yes: alice (passwords)", ""},
		{"keys first", Chain{keys(), passwords()}, "SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN", "yes: alice (passwords)", "keys"},
		{"passwords first", Chain{passwords(), keys()}, "PLAIN LOGIN", "yes: alice (passwords)", ""},
		{"no ability", Chain{newTestStore("none", struct{}{})}, "", "", ""},
	}
	for _, tt := range tests {
		slow := newThrottle()
		l := NewLocal(tt.chain, slow, NewScram(slow, nil), Config{})
		if got := strings.Join(l.Mechanisms(tlsPeer()), " "); got != tt.mechanisms {
			t.Errorf("%s: offers %q, want %q", tt.name, got, tt.mechanisms)
		}
		if l.Passwords != nil {
			if got := result(l.Passwords.VerifyPassword(t.Context(), tlsPeer(), "Alice", "secret")); got != tt.password {
				t.Errorf("%s: %s, want %s", tt.name, got, tt.password)
			}
		}
		if l.Keys != nil {
			if k, err := l.Keys.ScramKeys(t.Context(), tlsPeer(), "Alice"); err != nil || k.Store != tt.keys || k.User != "alice" {
				t.Errorf("%s: keys of %q at %q, %v", tt.name, k.User, k.Store, err)
			}
			if d := l.Keys.ScramDecoy("Eve"); d.Login != "eve" {
				t.Errorf("%s: decoy %+v", tt.name, d)
			}
		}
	}
	// A store that is called for an ability that it does not have is no refusal.
	if got := result(keys().VerifyPassword(t.Context(), tlsPeer(), "Alice", "secret")); got != "later (keys)" {
		t.Errorf("password at a store of keys: %s", got)
	}
	if _, err := passwords().ScramKeys(t.Context(), tlsPeer(), "Alice"); !errors.Is(err, errNoAbility) || asFailure(err) != nil {
		t.Errorf("keys at a store of passwords: %v", err)
	}
}

// A chain as KeyStore: a store without keys is not skipped.
func TestChainKeys(t *testing.T) {
	keeper := func(name string, k KeyStore, change ...func(*StoreSpec)) *Store {
		return newTestStore(name, struct {
			verifierFunc
			KeyStore
		}{answering(NoSuchUser), k}, change...)
	}
	pam := newTestStore("pam", answering(Unknowable))
	if (Chain{}).Keys() != nil || (Chain{pam, keeper("file", users())}).Keys() != nil {
		t.Error("a chain whose first store has no keys is a KeyStore")
	}
	realm := func(s *StoreSpec) { s.Realm = "example.org" }
	carol := &fakeKeeper{users: map[string]string{"carol@example.org": "secret"}}
	tests := []struct {
		name, login string
		chain       Chain
		want        string
	}{
		{"the first", "Alice", Chain{keeper("file", users()), keeper("sql", carol)}, "alice (file)"},
		{"the second", "carol", Chain{keeper("file", users()), keeper("sql", carol, realm)}, "carol@example.org (sql)"},
		{"one without keys ends the search", "bob", Chain{keeper("file", users()), keeper("sql", &fakeKeeper{users: map[string]string{"bob": "x"}})}, "wrong password (file)"},
		{"after one without keys", "carol", Chain{keeper("file", users()), pam, keeper("sql", carol, realm)}, "no such user (file)"},
		{"down, and known to another", "carol", Chain{keeper("file", &fakeKeeper{err: errDown}), keeper("sql", carol, realm)}, "carol@example.org (sql)"},
		{"down", "eve", Chain{keeper("file", &fakeKeeper{err: errDown}), keeper("sql", carol, realm)}, "later (file), while no such user (sql)"},
		{"panics", "eve", Chain{keeper("file", nil)}, "later (file)"},
	}
	for _, tt := range tests {
		keys, err := tt.chain.Keys().ScramKeys(t.Context(), tlsPeer(), tt.login)
		got := fmt.Sprintf("%s (%s)", keys.User, keys.Store)
		if err != nil {
			got = result(Identity{}, err)
		}
		if got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
	// Logins that the second store distinguishes have different decoys, although they are the same
	// for the first.
	local := func(s *StoreSpec) { s.Config.Login = "{local}" }
	both := Chain{keeper("file", users(), local), keeper("sql", users())}.Keys()
	if one, other := both.ScramDecoy("eve@example.org"), both.ScramDecoy("eve@example.net"); one.Login == other.Login || one.ScramShape != other.ScramShape {
		t.Errorf("decoys %v and %v", one, other)
	}
	// The decoy of an unknown user depends on the login that the store gets.
	c := Chain{keeper("file", users(), realm)}.Keys()
	if c.ScramDecoy("Eve") != c.ScramDecoy("eve@example.org") {
		t.Error("two spellings of one login have two decoys")
	}
}
