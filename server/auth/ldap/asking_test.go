package ldap

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	"postern/internal/ldapclient/ldaptest"
	"postern/server/auth"
	"postern/test/kit"
)

// Only a bind of a user that was sent and not answered counts as a login without a verdict: a
// search shows nothing of the password, and a connection is not yet a question.
func TestUnansweredBinds(t *testing.T) {
	f := ldaptest.Start(t, func(c *ldaptest.Conn, q ldaptest.Request) {
		switch {
		case strings.HasPrefix(q.Name, "uid=hangs"):
		case strings.HasPrefix(q.Name, "uid=lost"):
			c.Close()
		case strings.HasPrefix(q.Name, "uid=busy"):
			c.Done(q, ldap.LDAPResultBusy, "")
		case q.Tag == ldap.ApplicationBindRequest:
			c.Done(q, ldap.LDAPResultInvalidCredentials, "")
		}
	})
	silent := ldaptest.Start(t, func(*ldaptest.Conn, ldaptest.Request) {})
	calls := auth.NewCalls(kit.Patience, 20)
	verify := func(s *Store, login string, patience time.Duration) bool {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		err := calls.Do(ctx, unknownPeer, login, func(ctx context.Context) error {
			_, err := s.VerifyPassword(ctx, unknownPeer, login, "secret")
			return err
		})
		u, ok := errors.AsType[*auth.Unavailable](err)
		return ok && u.Unanswered
	}
	up := open(t, direct(t, f.URL()))
	verify(up, "alice", kit.Patience)
	for _, tt := range []struct {
		name     string
		store    *Store
		login    string
		patience time.Duration
		want     bool
	}{
		{"hangs", up, "hangs", 100 * time.Millisecond, true},
		{"lost", up, "lost", kit.Patience, true},
		{"busy", up, "busy", kit.Patience, false},
		{"refused", up, "bob", kit.Patience, false},
		{"search hangs", open(t, withService(t, silent.URL())), "hangs", 100 * time.Millisecond, false},
		{"no server", open(t, direct(t, "ldap://127.0.0.1:1")), "hangs", kit.Patience, false},
	} {
		if got := verify(tt.store, tt.login, tt.patience); got != tt.want {
			t.Errorf("%s: unanswered %v, want %v", tt.name, got, tt.want)
		}
	}
}
