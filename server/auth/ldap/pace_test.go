package ldap

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"postern/server/auth"
)

// Unknown users get their answer as late as those whose password is wrong, and
// nobody else waits.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pace
		for _, took := range []time.Duration{80, 160, 80, 80} {
			p.saw(took * time.Millisecond)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		unknown := &auth.Failure{Kind: auth.NoSuchUser}
		tests := []struct {
			name     string
			ctx      context.Context
			err      error
			min, max time.Duration
		}{
			{"unknown", t.Context(), unknown, 80 * time.Millisecond, 100 * time.Millisecond},
			{"unknown, nobody waits", ended, unknown, 0, 0},
			{"wrong password", t.Context(), &auth.Failure{Kind: auth.BadPassword}, 0, 0},
			{"no answer", t.Context(), errors.New("no answer"), 0, 0},
		}
		for _, tt := range tests {
			began := time.Now()
			if err := p.after(tt.ctx, tt.err); err != tt.err {
				t.Errorf("%s: %v", tt.name, err)
			}
			if took := time.Since(began); took < tt.min || took > tt.max {
				t.Errorf("%s: %v", tt.name, took)
			}
		}
		for range 100 {
			p.saw(time.Minute)
		}
		began := time.Now()
		_ = p.after(t.Context(), unknown)
		if took := time.Since(began); took != longestPause {
			t.Errorf("a slow server: %v", took)
		}
	})
}
