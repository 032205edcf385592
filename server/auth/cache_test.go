package auth

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// A changing backend gives the answers that a test sets.
type changing struct {
	passwords map[string]string
	err       error
	asked     int
}

func (c *changing) VerifyPassword(_ context.Context, _ *Peer, login, password string) (Identity, error) {
	c.asked++
	switch {
	case c.err != nil:
		return Identity{}, c.err
	case c.passwords[login] == "":
		return Identity{}, &Failure{Kind: NoSuchUser}
	case c.passwords[login] != password:
		return Identity{}, &Failure{Kind: BadPassword}
	}
	return Identity{User: login}, nil
}

func cachedFor(ttl, stale time.Duration) func(*StoreSpec) {
	return func(s *StoreSpec) { s.Cache = CacheConfig{TTL: ttl, StaleWhileDown: stale} }
}

type cacheTest struct {
	name       string
	ttl, stale time.Duration
	steps      []cacheStep
}

// In a cacheStep something changes or time passes, then a user logs in.
type cacheStep struct {
	change          func(*changing)
	login, password string
	want            string
	asked           bool
}

func after(d time.Duration) func(*changing) { return func(*changing) { time.Sleep(d) } }

func fails(err error) func(*changing) { return func(c *changing) { c.err = err } }

func set(login, password string) func(*changing) {
	return func(c *changing) { c.passwords[login] = password }
}

const (
	yes  = "yes: alice (pam)"
	no   = "wrong password (pam)"
	down = "later (pam)"
)

func TestCache(t *testing.T) {
	runCacheTests(t, []cacheTest{
		{"is off", 0, 0, []cacheStep{
			{nil, "alice", "secret", yes, true},
			{nil, "alice", "secret", yes, true},
		}},
		{"answers within the TTL", time.Minute, 0, []cacheStep{
			{nil, "alice", "secret", yes, true},
			{after(59 * time.Second), "alice", "secret", yes, false},
			{after(time.Second), "alice", "secret", yes, true},
		}},
		{"answers do not lengthen the TTL", time.Minute, 0, []cacheStep{
			{nil, "alice", "secret", yes, true},
			{after(40 * time.Second), "alice", "secret", yes, false},
			{after(40 * time.Second), "alice", "secret", yes, true},
		}},
		{"another password is asked about", time.Minute, 0, []cacheStep{
			{nil, "alice", "secret", yes, true},
			{nil, "alice", "Secret", no, true},
			{nil, "alice", "Secret", no, true},
		}},
		{"another user with the same password", time.Minute, time.Hour, []cacheStep{
			{nil, "alice", "secret", yes, true},
			{nil, "bob", "secret", no, true},
			{nil, "bob", "secret", no, true},
			{nil, "bo", "bsecret", "no such user (pam)", true},
			{fails(errDown), "bob", "secret", down, true},
			{nil, "carol", "secret", down, true},
		}},
		{"a changed password works at once", time.Minute, 0, []cacheStep{
			{nil, "alice", "secret", yes, true},
			{set("alice", "changed"), "alice", "changed", yes, true},
			{nil, "alice", "changed", yes, false},
		}},
		{"a refusal removes the entries", time.Minute, time.Hour, []cacheStep{
			{nil, "alice", "secret", yes, true},
			{set("alice", "changed"), "alice", "wrong", no, true},
			{nil, "alice", "secret", no, true},
		}},
		{"an account that is closed", time.Minute, time.Hour, []cacheStep{
			{nil, "alice", "secret", yes, true},
			{fails(&Failure{Kind: Disabled}), "alice", "other", "account disabled (pam)", true},
			{nil, "alice", "secret", "account disabled (pam)", true},
			{fails(errDown), "alice", "secret", down, true},
		}},
		{"a user that is removed", time.Minute, time.Hour, []cacheStep{
			{nil, "alice", "secret", yes, true},
			{set("alice", ""), "alice", "other", "no such user (pam)", true},
			{nil, "alice", "secret", "no such user (pam)", true},
		}},
		{"failures are not remembered", time.Minute, time.Hour, []cacheStep{
			{nil, "alice", "new", no, true},
			{set("alice", "new"), "alice", "new", yes, true},
		}},
	})
}

func TestCacheInAnOutage(t *testing.T) {
	runCacheTests(t, []cacheTest{
		{"an outage beyond the TTL", time.Minute, 0, []cacheStep{
			{nil, "alice", "secret", yes, true},
			{fails(errDown), "alice", "secret", yes, false},
			{after(time.Minute), "alice", "secret", down, true},
		}},
		{"stale while down", 0, time.Hour, []cacheStep{
			{nil, "alice", "secret", yes, true},
			{nil, "alice", "secret", yes, true},
			{fails(errDown), "alice", "secret", yes, true},
			{nil, "alice", "wrong", down, true},
			{after(59 * time.Minute), "alice", "secret", yes, true},
			{after(time.Minute), "alice", "secret", down, true},
			{fails(nil), "alice", "secret", yes, true},
		}},
		{"stale entries are not used while the store is up", time.Minute, time.Hour, []cacheStep{
			{nil, "alice", "secret", yes, true},
			{after(2 * time.Minute), "alice", "secret", yes, true},
			{set("alice", "changed"), "alice", "secret", yes, false},
			{after(2 * time.Minute), "alice", "secret", no, true},
			{fails(errDown), "alice", "secret", down, true},
		}},
	})
}

func runCacheTests(t *testing.T, tests []cacheTest) {
	t.Helper()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				backend := &changing{passwords: map[string]string{"alice": "secret", "bob": "another"}}
				s := newTestStore("pam", backend, cachedFor(tt.ttl, tt.stale))
				for i, step := range tt.steps {
					if step.change != nil {
						step.change(backend)
					}
					before := backend.asked
					if got := result(s.VerifyPassword(t.Context(), tlsPeer(), step.login, step.password)); got != step.want {
						t.Errorf("step %d: got %s, want %s", i, got, step.want)
					}
					if asked := backend.asked > before; asked != step.asked {
						t.Errorf("step %d: asked %v", i, asked)
					}
				}
			})
		})
	}
}

// CVE-2025-30189 was one key for all users of several stores.
func TestStoresDoNotShareTheirCaches(t *testing.T) {
	first := &changing{passwords: map[string]string{"alice": "secret"}}
	second := &changing{passwords: map[string]string{"alice": "other"}}
	c := Chain{
		newTestStore("pam", first, cachedFor(time.Hour, 0), onFailure(OnFailureNext)),
		newTestStore("pam", second, cachedFor(time.Hour, 0)),
	}
	for _, password := range []string{"secret", "secret", "other", "other"} {
		if _, err := c.Passwords().VerifyPassword(t.Context(), tlsPeer(), "alice", password); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c[1].VerifyPassword(t.Context(), tlsPeer(), "alice", "secret"); asFailure(err) == nil {
		t.Errorf("the second store accepts the first one's password: %v", err)
	}
}

// Logins from which the template makes one login share an entry; others do not.
func TestCacheUsesTheLoginOfTheStore(t *testing.T) {
	backend := &changing{passwords: map[string]string{"alice": "secret", "alice@example.net": "secret"}}
	local := func(s *StoreSpec) { s.Config.Login = localPart }
	byLocal := newTestStore("pam", backend, cachedFor(time.Hour, 0), local)
	byUser := newTestStore("pam", backend, cachedFor(time.Hour, 0))
	for _, login := range []string{"alice", "alice@example.net"} {
		for _, s := range []*Store{byLocal, byUser} {
			if _, err := s.VerifyPassword(t.Context(), tlsPeer(), login, "secret"); err != nil {
				t.Error(err)
			}
		}
	}
	if backend.asked != 3 {
		t.Errorf("asked %d times, want once by {local} and twice by {user}", backend.asked)
	}
}

func TestCacheNeedsNoSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		block := make(chan struct{})
		s := newTestStore("pam", verifierFunc(func(_ context.Context, _ *Peer, login, _ string) (Identity, error) {
			if login == "slow" {
				<-block
			}
			return Identity{User: login}, nil
		}), cachedFor(time.Hour, 0), func(s *StoreSpec) { s.Config.Concurrency = 1 })
		for _, login := range []string{"alice", "slow", "alice"} {
			go s.VerifyPassword(t.Context(), tlsPeer(), login, "secret")
			synctest.Wait()
		}
		if got := result(s.VerifyPassword(t.Context(), tlsPeer(), "alice", "secret")); got != "yes: alice (pam)" {
			t.Errorf("got %s", got)
		}
		close(block)
	})
}

func TestCacheIsBounded(t *testing.T) {
	c := newCache(CacheConfig{TTL: time.Hour})
	logIn := func(login, password string) {
		t.Helper()
		_, err := c.verify(login, password, func() (Identity, error) { return Identity{User: login}, nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range cacheLogins + 100 {
		logIn(fmt.Sprint(i), "secret")
	}
	for i := range 20 {
		logIn("alice", fmt.Sprint(i))
	}
	known, _ := c.logins.Get("alice")
	if c.logins.Len() != cacheLogins || len(known) != cachePerLogin {
		t.Errorf("%d logins, %d of alice", c.logins.Len(), len(known))
	}
	if _, ok := c.recall("alice", c.key.MAC("alice", "19"), time.Hour); !ok {
		t.Error("the last password is not remembered")
	}
}

func TestCacheValidateNamesTheKey(t *testing.T) {
	tests := []struct {
		config CacheConfig
		want   string
	}{
		{CacheConfig{}, ""},
		{CacheConfig{TTL: time.Minute}, ""},
		{CacheConfig{StaleWhileDown: time.Hour}, ""},
		{CacheConfig{TTL: time.Minute, StaleWhileDown: time.Hour}, ""},
		{CacheConfig{TTL: -1}, "ttl"},
		{CacheConfig{TTL: 25 * time.Hour}, "ttl"},
		{CacheConfig{TTL: time.Hour, StaleWhileDown: time.Minute}, "stale_while_down"},
		{CacheConfig{StaleWhileDown: 1000 * time.Hour}, "stale_while_down"},
	}
	for _, tt := range tests {
		got := ""
		tt.config.Validate(func(key, _ string) { got += key })
		if got != tt.want {
			t.Errorf("%+v: reports %q, want %q", tt.config, got, tt.want)
		}
	}
}
