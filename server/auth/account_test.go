package auth

import "testing"

// A localStore finds its users by the local part of the login.
type localStore struct{ fakeStore }

func (*localStore) IgnoresDomain() bool { return true }

// All logins that the stores take for one account have one count of guesses.
func TestAccountMergesWhatTheStoresMerge(t *testing.T) {
	store := func(template LoginTemplate, realm string) *Store {
		return NewStore(StoreSpec{Kind: "fake", Config: StoreConfig{Login: template, Concurrency: 1}, Realm: realm, Backend: &fakeStore{}})
	}
	anyDomain := func(realm string) *Store {
		return NewStore(StoreSpec{Kind: "fake", Config: StoreConfig{Concurrency: 1}, Realm: realm, Backend: &localStore{}})
	}
	for _, tt := range []struct {
		chain  Chain
		logins []string
		same   bool
	}{
		{Chain{store("", "")}, []string{"bob", "bob@example.org"}, false},
		{Chain{store("{user}", "example.org")}, []string{"bob", "bob@example.org"}, true},
		{Chain{store("{user}", "example.org")}, []string{"bob", "bob@example.net"}, false},
		{Chain{store("{local}", "")}, []string{"bob", "bob@example.org", "bob@example.net"}, true},
		{Chain{store("{local}", "example.org")}, []string{"bob", "bob@example.org"}, true},
		{Chain{store("{local}", "example.org")}, []string{"bob", "bob@example.net"}, false},
		{Chain{store("{local}+{domain}", "")}, []string{"bob@example.org", "bob@example.net"}, false},
		{Chain{store("{user}", ""), store("{local}", "")}, []string{"bob@example.org", "bob@example.net"}, true},
		{Chain{anyDomain("")}, []string{"bob", "bob@example.org", "bob@example.net"}, true},
		{Chain{store("", ""), anyDomain("example.org")}, []string{"bob@example.org", "bob@example.net"}, true},
		{nil, []string{"bob", "rob"}, false},
	} {
		for _, login := range tt.logins[1:] {
			if got := tt.chain.account(login) == tt.chain.account(tt.logins[0]); got != tt.same {
				t.Errorf("%v: %s and %s are one account: %v", tt.chain, tt.logins[0], login, got)
			}
		}
	}
	if LocalPart("@x") != "@x" || LocalPart("a@b@c") != "a@b" {
		t.Error("LocalPart")
	}
}
