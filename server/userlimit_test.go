package server

import (
	"slices"
	"sync"
	"testing"

	"postern/internal/share"
	"postern/test/kit"
)

func userSettings(most int) settings {
	s := defaultSettings()
	s.Server.Limits.ConnectionsPerUser = most
	return s
}

const (
	loginAlice = "AUTH PLAIN AGFsaWNlAHNlY3JldA=="
	loggedOut  = "421 4.7.0 Error: too many connections of this user; this one was idle"
)

// wasClosed checks that a client was idle for too long.
func (c *client) wasClosed(t *testing.T) {
	t.Helper()
	if line, err := c.line(); err != nil || line != loggedOut {
		t.Errorf("%q, %v", line, err)
	}
	kit.Must(t, c.expectEOF())
}

// TestConnectionsPerUser: above the limit the user's own connection is closed that is idle
// and has made no progress for longest; a transaction is never cut, and other users are not
// affected.
func TestConnectionsPerUser(t *testing.T) {
	d := newTestServer(t, userSettings(3))
	bob := d.dial()
	kit.Must(t, bob.login("bob other"))
	first, second, third := d.join(), d.join(), d.join()
	first.must(t, mailSteps...)
	d.join()
	second.wasClosed(t)
	first.must(t, "DATA", "354", "\r\nx\r\n.", "250", "NOOP", "250") // the latest progress
	fifth := d.join()
	third.wasClosed(t)
	for _, c := range []*client{first, fifth, bob} {
		c.must(t, "NOOP", "250")
	}
	if n := d.log.Count(`msg="connection dropped"*reason="too many connections of this user" count=1 user=alice@example.org`); n != 1 {
		t.Errorf("%d lines in the log, want one (the second is counted)\n%s", n, d.log)
	}
}

// TestUserWithoutIdleConnections: if none of the user's connections is idle, the new login
// gets 421 and is logged, and the connections continue.
func TestUserWithoutIdleConnections(t *testing.T) {
	d := newTestServer(t, userSettings(2))
	first, second := d.join(), d.join()
	first.must(t, mailSteps...)
	second.must(t, append(mailSteps, "DATA", "354")...)
	refused := d.dial()
	kit.Must(t, refused.secure())
	refused.must(t, "EHLO client.example.org", "250", loginAlice, "421")
	if got := refused.reply[0]; got != "4.7.0 Error: too many connections of this user" {
		t.Errorf("%q", got)
	}
	kit.Must(t, refused.expectEOF())
	first.must(t, "DATA", "354", "\r\nx\r\n.", "250")
	second.must(t, "\r\nx\r\n.", "250")
	d.join()
	for line, want := range map[string]int{
		`msg="connection refused"*reason="too many connections of this user" count=1 user=alice@example.org`: 1,
		`msg="auth ok"`: 3, `msg=refused`: 0, `msg=accepted`: 2,
	} {
		if n := d.log.Count(line); n != want {
			t.Errorf("%d lines %s, want %d", n, line, want)
		}
	}
}

// TestUserLimitAfterReload: a reload keeps the counts, and its limit holds for the next
// login.
func TestUserLimitAfterReload(t *testing.T) {
	d := newTestServer(t, userSettings(3))
	clients := []*client{d.join(), d.join(), d.join()}
	parts := d.parts
	parts.Config.Limits.ConnectionsPerUser = 2
	parts.Listeners = slices.Clone(parts.Listeners)
	kit.Must(t, d.server.Reload(parts))
	d.join()
	clients[0].wasClosed(t)
	clients[1].wasClosed(t)
	clients[2].must(t, "NOOP", "250")
}

// TestUsersOfAListener: a listener has its own limit, and one with its own stores has its
// own users.
func TestUsersOfAListener(t *testing.T) {
	s := userSettings(2)
	s.Listener.Limits.ConnectionsPerUser = 1
	d := newTestServer(t, s)
	first := d.join()
	second := d.join()
	first.wasClosed(t)

	parts := d.parts
	parts.Listeners = slices.Clone(parts.Listeners)
	parts.Listeners[0].Users = "submission"
	kit.Must(t, d.server.Reload(parts))
	third := d.join()
	second.must(t, "NOOP", "250")
	d.join()
	third.wasClosed(t)
}

// TestConcurrentLogins: many logins at once stay below the limit, and nothing is left of the
// user at the end.
func TestConcurrentLogins(t *testing.T) {
	const most, logins = 4, 24
	d := newTestServer(t, userSettings(most))
	user := share.User("", "alice@example.org")
	var all sync.WaitGroup
	for range logins {
		all.Go(func() {
			c, err := dial(d.address(), STARTTLS)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.raw.Close()
			_ = c.login("alice secret") // it may have been closed for another one already
			if n := d.ofUser(user); n > most {
				t.Errorf("%d connections of the user", n)
			}
		})
	}
	all.Wait()
	kit.Eventually(t, "all slots are released", func() bool { return d.server.limiter.leftover() == "" })
}

// ofUser is how many connections count for the user.
func (d *testServer) ofUser(user share.Owner) int {
	g := &d.server.limiter
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.users[user] == nil {
		return 0
	}
	return g.users[user].Len()
}
