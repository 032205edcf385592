package server

import (
	"context"
	"strings"
	"testing"
	"time"

	"postern/server/auth"
	"postern/server/auth/throttle"
	"postern/test/kit"
)

// beginSlow returns a server whose store is asked for the login "slow" by AUTH of a client,
// and does not answer yet.
func beginSlow(t *testing.T, password string) (*testServer, *client) {
	t.Helper()
	d := newTestServer(t, defaultSettings())
	slow := throttle.New(throttle.Config{MaxWait: time.Minute})
	d.services.Store(&Services{Auth: auth.Local{Passwords: auth.Throttled(slow, d.users)}, Hop: d.router})
	c := d.dial()
	if err := c.secure(); err != nil {
		t.Fatal(err)
	}
	c.must(t, helloSteps...)
	if err := c.sendAll("AUTH PLAIN " + kit.Plain("slow", password) + "\r\n"); err != nil {
		t.Fatal(err)
	}
	<-d.users.asked
	return d, c
}

// TestVerdictAfterTheConnection: a session ends at once when its client hangs up or is dropped
// to make room, but the verdict is logged with its session, and until then the services are
// held.
func TestVerdictAfterTheConnection(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		password string
		end      func(*testServer, *client) error
		line     string
	}{
		"a no":                {"wrong", hangUp, `level=WARN msg="auth failed" session=ID listener=submission client=127.0.0.1 user=slow mech=PLAIN store=users reason="wrong password" abandoned=true`},
		"a no, reset":         {"wrong", reset, `level=WARN msg="auth failed" session=ID listener=submission client=127.0.0.1 user=slow mech=PLAIN store=users reason="wrong password" abandoned=true`},
		"a no after the drop": {"wrong", drop, `level=WARN msg="auth failed" session=ID listener=submission client=127.0.0.1 user=slow mech=PLAIN store=users reason="wrong password" abandoned=true`},
		"a yes":               {"secret", hangUp, `level=INFO msg="auth abandoned" session=ID listener=submission client=127.0.0.1 mech=PLAIN user=slow@example.org`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, c := beginSlow(t, tt.password)
			if err := tt.end(d, c); err != nil {
				t.Fatal(err)
			}
			kit.Eventually(t, "the session has ended", func() bool { return d.log.First("msg=disconnected") != "" && d.isEmpty() })
			if n := d.held.count.Load(); n != 1 {
				t.Errorf("services are held %d times, want once", n)
			}
			if n := d.log.Count("msg=\"auth "); n != 0 {
				t.Errorf("%d lines before the verdict", n)
			}
			d.users.answer()
			kit.Eventually(t, "the verdict", func() bool { return d.log.Count("msg=\"auth ") == 1 && d.held.count.Load() == 0 })
			_, line, _ := strings.Cut(d.log.First("msg=\"auth "), " ")
			before, rest, _ := strings.Cut(line, "session=")
			_, after, _ := strings.Cut(rest, " ")
			if got := before + "session=ID " + after; strings.TrimSpace(got) != tt.line {
				t.Errorf("logged %s\nwant   %s", got, tt.line)
			}
		})
	}
}

// TestShutdownEndsVerifications: neither a connected client nor one that has gone makes a
// shutdown wait for the store, and a shutdown is no wrong password.
func TestShutdownEndsVerifications(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*testServer, *client) error{
		"gone":      hangUp,
		"connected": func(*testServer, *client) error { return nil },
	} {
		for _, at := range []string{"graceful", "at once"} {
			t.Run(name+" "+at, func(t *testing.T) {
				t.Parallel()
				d, c := beginSlow(t, "wrong")
				if err := end(d, c); err != nil {
					t.Fatal(err)
				}
				if name == "gone" {
					kit.Eventually(t, "the session has ended", d.isEmpty)
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if at == "at once" {
					cancel()
				}
				_ = d.server.Shutdown(ctx)
				if n := d.held.count.Load(); n != 0 {
					t.Errorf("services are held %d times after the shutdown", n)
				}
				if got := d.log.First("msg=\"auth "); !strings.Contains(got, "auth abandoned") || d.log.Count("msg=\"auth ") != 1 {
					t.Errorf("logged %q", got)
				}
			})
		}
	}
}
