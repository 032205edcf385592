package pam

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"postern/server/auth"
	"postern/server/auth/saslauthd"
	"postern/test/kit"
)

// Only a request that was sent and that PAM has not answered counts as a login without a
// verdict. The helper answers for a module that takes too long.
func TestUnansweredRequests(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	answer := func(verdict saslauthd.Verdict, text string) []byte {
		return saslauthd.Answer{Verdict: verdict, Text: text}.Append(nil)
	}
	dial := func(context.Context) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			r, err := saslauthd.ReadRequest(theirs)
			if err != nil {
				return
			}
			switch r.Login {
			case "hangs":
				<-release
			case "overdue":
				_, _ = theirs.Write(answer(saslauthd.Neither, overdue+" 10s; "+timeoutHint+" (signal: killed)"))
			case "broken":
				_, _ = theirs.Write(answer(saslauthd.Neither, "authentication information is not available"))
			default:
				_, _ = theirs.Write(answer(saslauthd.NO, "refused"))
			}
		}()
		return ours, nil
	}
	calls := auth.NewCalls(kit.Patience, 20)
	verify := func(s *Store, login string, patience time.Duration) bool {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		err := calls.Do(ctx, peer, login, func(ctx context.Context) error {
			_, err := s.VerifyPassword(ctx, peer, login, "secret")
			return err
		})
		u, ok := errors.AsType[*auth.Unavailable](err)
		return ok && u.Unanswered
	}
	up := &Store{service: "smtp", dial: dial, where: "here"}
	down := &Store{service: "smtp", dial: func(context.Context) (net.Conn, error) { return nil, errors.New("down") }, where: "there"}
	verify(up, "alice", kit.Patience)
	for _, tt := range []struct {
		store    *Store
		login    string
		patience time.Duration
		want     bool
	}{
		{up, "hangs", 50 * time.Millisecond, true},
		{up, "overdue", kit.Patience, true},
		{up, "broken", kit.Patience, false},
		{up, "bob", kit.Patience, false},
		{down, "hangs", kit.Patience, false},
	} {
		if got := verify(tt.store, tt.login, tt.patience); got != tt.want {
			t.Errorf("%s %s: unanswered %v, want %v", tt.store.where, tt.login, got, tt.want)
		}
	}
}
