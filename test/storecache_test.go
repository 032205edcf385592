package test

import (
	"fmt"
	"path/filepath"
	"testing"

	"postern/test/kit"
)

// The answer cache before a real saslauthd: nobody gets in with the password of
// another, or of another realm, and what it remembers goes when it has to.
func TestStoreCache(t *testing.T) {
	t.Parallel()
	peer(t, "root", "saslpasswd2")
	db := filepath.Join(openFolder(t), "sasldb2")
	for user, password := range map[string]string{"alice": "sesame", "bob": "wonderland"} {
		setSasldb(t, db, user, "example.org", password)
	}
	setSasldb(t, db, "alice", "example.com", "abracadabra")
	d := startSaslauthd(t, fmt.Sprintf("mount --bind %s /etc/sasldb2", db), "-a", "sasldb", "-n", "4")
	const store = "[[auth.stores]]\nkind = \"saslauthd\"\nname = %q\npath = %q\nrealm = %q\n" +
		"cache.ttl = %q\ncache.stale_while_down = \"1h\"\n"
	p := startPostern(t, posternOptions{
		NextHop:  "smtp://" + startSink(t).Addr,
		Sections: map[string]string{"auth": exempt},
		Stores: fmt.Sprintf(store, "org", d.socket(), "example.org", "30m") +
			fmt.Sprintf(store, "com", d.socket(), "example.com", "30m"),
	})
	want := func(user, password string, code int) {
		t.Helper()
		p.wantLogin(t, nil, user, password, code)
	}
	for range 2 { // the second time from memory
		want("alice", "sesame", 235)
		want("alice", "abracadabra", 235)
		want("bob", "wonderland", 235)
		want("bob", "sesame", 535)
		want("alice", "wonderland", 535)
		want("bob", "abracadabra", 535)
		want("Alice", "sesame", 535)
	}
	want("alice", "sesame", 235)
	setSasldb(t, db, "alice", "example.org", "simsalabim")
	want("alice", "sesame", 235) // what a ttl is
	want("alice", "simsalabim", 235)
	want("alice", "mistaken", 535)
	want("alice", "sesame", 535) // forgotten with the refusal

	want("alice", "simsalabim", 235)
	d.stop(t)
	want("alice", "simsalabim", 235)
	want("alice", "sesame", 454)
	want("bob", "simsalabim", 454)
	d.start(t)
	kit.Eventually(t, "a login", func() bool { return p.tryLogin(t, nil, "bob", "wonderland").Code == 235 })
	want("bob", "simsalabim", 535)
}
