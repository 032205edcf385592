package auth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestStoreDefaultsAreValid(t *testing.T) {
	c := StoreDefaults()
	c.Validate(func(key, why string) { t.Errorf("%s: %s", key, why) })
}

func TestStoreValidateNamesTheKey(t *testing.T) {
	tests := []struct {
		key   string
		spoil func(*StoreConfig)
	}{
		{"name", func(c *StoreConfig) { c.Name = "two words" }},
		{"name", func(c *StoreConfig) { c.Name = strings.Repeat("x", 33) }},
		{"timeout", func(c *StoreConfig) { c.Timeout = 0 }},
		{"timeout", func(c *StoreConfig) { c.Timeout = time.Minute }},
		{"concurrency", func(c *StoreConfig) { c.Concurrency = 0 }},
	}
	for _, tt := range tests {
		c := StoreDefaults()
		tt.spoil(&c)
		var got []string
		c.Validate(func(key, _ string) { got = append(got, key) })
		if len(got) != 1 || got[0] != tt.key {
			t.Errorf("complains of %v, want %s", got, tt.key)
		}
	}
}

func TestOnFailureText(t *testing.T) {
	for text, ok := range map[string]bool{"next": true, "stop": true, "": false, "Next": false, "continue": false} {
		var o OnFailure
		if err := o.UnmarshalText([]byte(text)); (err == nil) != ok || ok && string(o) != text {
			t.Errorf("%q: %q, %v", text, o, err)
		}
	}
}

func TestStoreAnswersUnderItsName(t *testing.T) {
	named := func(s *StoreSpec) { s.Config.Name = "people" }
	if s := newTestStore("ldap", answering("alice")); s.Name() != "ldap" {
		t.Errorf("without a name: %q", s.Name())
	}
	shared := &Failure{Kind: Disabled, Store: "backend", Reason: "for a while"}
	for answer, want := range map[any]string{
		"alice": "yes: alice (people)",
		shared:  "account disabled (people)",
		errDown: "later (people)",
	} {
		s := newTestStore("ldap", answering(answer), named)
		if got := result(s.VerifyPassword(t.Context(), tlsPeer(), "alice", "secret")); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if shared.Store != "backend" {
		t.Error("the backend's value was changed")
	}
}

// A slow backend uses up only its own time.
func TestStoreBoundsTheTimeOfACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestStore("hangs", verifierFunc(func(ctx context.Context, _ *Peer, _, _ string) (Identity, error) {
			<-ctx.Done()
			return Identity{}, ctx.Err()
		}))
		begun := time.Now()
		_, err := s.VerifyPassword(t.Context(), tlsPeer(), "alice", "secret")
		if took := time.Since(begun); took != 10*time.Second {
			t.Errorf("took %v", took)
		}
		if !errors.Is(err, context.DeadlineExceeded) || err.Error() != "auth: no answer (hangs): no answer within its timeout of 10s: context deadline exceeded" {
			t.Errorf("got %v", err)
		}
	})
}

func TestStoreBoundsTheNumberOfCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, most, yes, busy atomic.Int32
		s := newTestStore("slow", verifierFunc(func(ctx context.Context, _ *Peer, login, _ string) (Identity, error) {
			now := running.Add(1)
			defer running.Add(-1)
			most.Store(max(most.Load(), now))
			time.Sleep(3 * time.Second)
			return Identity{User: login}, nil
		}))
		for i := range 200 {
			go func() {
				_, err := s.VerifyPassword(t.Context(), peerFrom(i), fmt.Sprint("user", i), "secret")
				switch {
				case err == nil:
					yes.Add(1)
				case errors.Is(err, ErrBusy):
					busy.Add(1)
				default:
					t.Error(err)
				}
			}()
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		// Calls at 0, 3, 6 and 9 seconds; then the wait of ten seconds is over.
		if most.Load() != 20 || yes.Load() != 80 || busy.Load() != 120 {
			t.Errorf("%d at once, %d in, %d busy", most.Load(), yes.Load(), busy.Load())
		}
		if got := result(s.VerifyPassword(t.Context(), tlsPeer(), "alice", "secret")); got != "yes: alice (slow)" {
			t.Errorf("afterwards: %s", got)
		}
	})
}

// peerFrom returns a client with the address that has this number.
func peerFrom(i int) *Peer {
	p := tlsPeer()
	p.Remote = netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), 4711)
	return p
}

// Logins from one address, or with one login in any spelling, have a quarter of the slots.
// Calls for keys count, too.
func TestStoreHasASharePerAddressAndLogin(t *testing.T) {
	logins := [2]string{"Alice", " a\u0301lice "}
	for name, attempt := range map[string]func(i int) (*Peer, string){
		"address": func(i int) (*Peer, string) { return peerFrom(7), fmt.Sprint("user", i) },
		"login":   func(i int) (*Peer, string) { return peerFrom(i), logins[i%2] },
	} {
		synctest.Test(t, func(t *testing.T) {
			var running atomic.Int32
			s := newTestStore("hangs", hangingKeeper{users()}, func(s *StoreSpec) { s.Config.Concurrency = 20 })
			s.passwords = verifierFunc(func(ctx context.Context, _ *Peer, _, _ string) (Identity, error) {
				running.Add(1)
				<-ctx.Done()
				return Identity{}, ctx.Err()
			})
			ctx, cancel := context.WithCancel(t.Context())
			for i := range 30 {
				p, login := attempt(i)
				go s.VerifyPassword(ctx, p, login, "wrong")
			}
			synctest.Wait()
			if running.Load() != 5 {
				t.Errorf("%s: %d of 20 slots are used, want 5", name, running.Load())
			}
			keys, cancelKeys := context.WithTimeoutCause(ctx, time.Second, ErrSlow)
			defer cancelKeys()
			p, login := attempt(0)
			if _, err := s.ScramKeys(keys, p, login); !errors.Is(err, ErrSlow) || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: keys: %v", name, err)
			}
			go s.VerifyPassword(ctx, peerFrom(1000), "bob", "secret")
			synctest.Wait()
			if running.Load() != 6 {
				t.Errorf("%s: another one waits", name)
			}
			cancel()
		})
	}
}

func TestStoreCallsForKnownClientsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order []string
		s := newTestStore("slow", verifierFunc(func(_ context.Context, _ *Peer, login, _ string) (Identity, error) {
			order = append(order, login)
			time.Sleep(time.Second)
			return Identity{User: login}, nil
		}), func(s *StoreSpec) { s.Config.Concurrency = 1 })
		for _, login := range []string{"first", "unknown", "known"} {
			go func() {
				p := tlsPeer()
				p.Known = login == "known"
				if _, err := s.VerifyPassword(t.Context(), p, login, "secret"); err != nil {
					t.Error(err)
				}
			}()
			synctest.Wait()
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := strings.Join(order, " "); got != "first known unknown" {
			t.Errorf("order: %s", got)
		}
	})
}

func TestStoreRecoversPanics(t *testing.T) {
	for name, thrown := range map[string]func(password string){
		"of the runtime": func(password string) { _ = []int{}[len(password)] },
		"of the store":   func(password string) { panic("cannot handle " + password) },
		"with an error":  func(password string) { panic(errors.New(password)) },
	} {
		var log bytes.Buffer
		s := newTestStore("broken", verifierFunc(func(_ context.Context, _ *Peer, login, password string) (Identity, error) {
			if login == "well" {
				return Identity{User: login}, nil
			}
			thrown(password)
			return Identity{User: login}, nil
		}), func(s *StoreSpec) {
			s.Config.Concurrency = 1
			s.Events = NewLog(slog.New(slog.NewTextHandler(&log, nil)))
		})
		_, err := s.VerifyPassword(t.Context(), tlsPeer(), "alice", "secret")
		if got := result(Identity{}, err); got != "later (broken)" {
			t.Errorf("%s: %s", name, got)
		}
		if strings.Contains(err.Error()+log.String(), "secret") || !strings.Contains(log.String(), "store_test.go") {
			t.Errorf("%s: %v\n%s", name, err, log.String())
		}
		if got := result(s.VerifyPassword(t.Context(), tlsPeer(), "well", "secret")); got != "yes: well (broken)" {
			t.Errorf("%s, afterwards: %s", name, got)
		}
	}
}

func TestStoreEndsWithItsContext(t *testing.T) {
	s := newTestStore("never", answering(errDown))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.VerifyPassword(ctx, tlsPeer(), "alice", "secret"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
