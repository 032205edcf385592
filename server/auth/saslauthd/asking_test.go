package saslauthd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"postern/server/auth"
	"postern/test/kit"
)

// Only a request that was sent and not answered counts as a login without a verdict.
func TestUnansweredRequests(t *testing.T) {
	release := make(chan struct{})
	d := startDaemon(t, func(r Request, conn net.Conn) {
		switch r.Login {
		case "hangs":
			<-release
		case "lost":
		case "odd":
			fmt.Fprint(conn, "\x00\x03HM?")
		default:
			fmt.Fprint(conn, "\x00\x02NO")
		}
	})
	defer close(release)
	calls := auth.NewCalls(kit.Patience, 20)
	verify := func(s *Store, login string, patience time.Duration) bool {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		peer := new(auth.Peer)
		err := calls.Do(ctx, peer, login, func(ctx context.Context) error {
			_, err := s.VerifyPassword(ctx, peer, login, "secret")
			return err
		})
		u, ok := errors.AsType[*auth.Unavailable](err)
		return ok && u.Unanswered
	}
	verify(d.store(), "alice", kit.Patience)
	down := New(Config{Path: d.path + "-missing", Service: "smtp"})
	for _, tt := range []struct {
		store    *Store
		login    string
		patience time.Duration
		want     bool
	}{
		{d.store(), "hangs", 50 * time.Millisecond, true},
		{d.store(), "lost", kit.Patience, true},
		{d.store(), "odd", kit.Patience, false},
		{d.store(), "bob", kit.Patience, false},
		{down, "hangs", kit.Patience, false},
	} {
		if got := verify(tt.store, tt.login, tt.patience); got != tt.want {
			t.Errorf("%s at %s: unanswered %v, want %v", tt.login, tt.store.cfg.Path, got, tt.want)
		}
	}
}
