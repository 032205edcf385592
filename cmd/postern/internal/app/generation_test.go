package app

import (
	"fmt"
	"strings"
	"testing"

	"postern/cmd/postern/internal/config"
	"postern/relay/relaytest"
	"postern/server"
	"postern/test/kit"
)

// A store that several sections name is opened once, and so are equal sections.
func TestEqualPartsAreOpenedOnce(t *testing.T) {
	s := newSite(t)
	s.certify(t, "cert", 1)
	s.users(t, "users", "alice")
	hop := relaytest.New(t, relaytest.Options{})
	s.write(t, `
[[listener]]
name = "a"
address = ["127.0.0.1:0"]
[[listener]]
name = "b"
address = ["127.0.0.1:0"]
auth.mechanisms = ["PLAIN"]
[[listener]]
name = "c"
address = ["127.0.0.1:0"]
auth.realm = "example.org"
`+s.shared("users", hop))
	d := s.daemon(t)
	defer d.Close()
	g, err := d.app.Build(d.cfg)
	kit.Must(t, err)
	var parts []string
	for _, c := range g.closers {
		what, err := c()
		kit.Must(t, err)
		parts = append(parts, what)
	}
	g.closers = nil
	kit.Must(t, g.Close())
	// The store is in two sections with equal realms, and in one with another realm.
	if got := strings.Join(parts, ", "); got != "stores, stores, next hops" || len(g.certs) != 1 {
		t.Errorf("opened %s and %d sets of certificates", got, len(g.certs))
	}
	if g.parts("a").auth == nil || g.parts("a").hop != g.parts("c").hop || g.parts("gone").hop != g.parts("a").hop {
		t.Error("the listeners do not share the parts")
	}
}

// A listener that was removed is not served by the parts of another one.
func TestRemovedListenerWithoutSharedParts(t *testing.T) {
	s := newSite(t)
	s.certify(t, "cert", 1)
	s.users(t, "users", "alice")
	hop := relaytest.New(t, relaytest.Options{})
	s.write(t, fmt.Sprintf(`
[[listener]]
name = "a"
address = ["127.0.0.1:0"]
tls.certificates = [{ cert = %q, key = %q }]
auth.stores = [{ kind = "userfile", path = %q }]
relay.next_hops = [%q]
`, s.file("cert.pem"), s.file("cert.key"), s.file("users"), hop.URL()))
	d := s.daemon(t)
	defer d.Close()
	g, err := d.app.Build(d.cfg)
	kit.Must(t, err)
	defer g.Close()
	gone := g.services(&listenerParts{settings: &config.Listener{Listener: server.Listener{Name: "gone"}}})
	if _, err := gone.Auth.Start(t.Context(), nil, "PLAIN"); err == nil {
		t.Error("a login was started")
	}
	if _, err := gone.Hop.Begin(t.Context(), nil); err == nil {
		t.Error("a message was begun")
	}
}

func TestRefCountedClosesUnusedValues(t *testing.T) {
	var r refCounted[string]
	closed := make(map[string]int)
	replace := func(v string) { r.Replace(v, func() { closed[v]++ }) }
	want := func(v string, n int) {
		t.Helper()
		if closed[v] != n {
			t.Errorf("%q was closed %d times, want %d", v, closed[v], n)
		}
	}

	replace("first")
	one, releaseOne := r.Acquire()
	two, releaseTwo := r.Acquire()
	replace("second")
	if three, release := r.Acquire(); one != "first" || two != "first" || three != "second" {
		t.Errorf("acquired %q, %q, %q", one, two, three)
	} else {
		release()
	}
	want("first", 0)
	releaseOne()
	releaseOne() // a second call has no effect
	want("first", 0)
	releaseTwo()
	want("first", 1)

	replace("third")
	want("second", 1)
	_, release := r.Acquire()
	r.Retire()
	want("third", 0)
	release()
	want("third", 1)
	_, release = r.Acquire() // by a session that was aborted at shutdown
	release()
	want("third", 1)
}
