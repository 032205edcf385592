package hash

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"postern/internal/semaphore"
	"postern/test/kit"
)

func TestMain(m *testing.M) { os.Exit(kit.Main(m)) }

const (
	bcrypt05 = "$2y$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2"
)

func TestCheck(t *testing.T) {
	c := NewChecker(time.Minute)
	tests := []struct {
		stored, password string
		want             bool
	}{
		{bcrypt05, password, true},
		{bcrypt05, "wrong", false},
		{bcrypt05, password, true}, // by the memo
		{bcrypt05, "wrong", false},
		{"!" + bcrypt05, password, false},
		{"", "", false},
	}
	for i, tt := range tests {
		if got, err := c.Check(t.Context(), tt.stored, tt.password, semaphore.Turn{}); got != tt.want || err != nil {
			t.Errorf("%d: %v, %v", i, got, err)
		}
	}
	if ok, err := c.Check(t.Context(), "secret", "secret", semaphore.Turn{}); ok || !errors.Is(err, ErrUnknown) {
		t.Errorf("clear text: %v, %v", ok, err)
	}
	if len(c.memo.young) != 1 {
		t.Errorf("%d in the memo, want the one success", len(c.memo.young))
	}
}

func TestMemoIsBoundToTheStoredHash(t *testing.T) {
	m := newMemo()
	m.add(m.key.MAC("stored", password))
	for name, mac := range map[string][16]byte{
		"another password": m.key.MAC("stored", "wrong"),
		"another hash":     m.key.MAC("changed", password),
		"the same bytes":   m.key.MAC("store", "d"+password),
		"another process":  newMemo().key.MAC("stored", password),
	} {
		if m.has(mac) {
			t.Errorf("%s counts as the one that matched", name)
		}
	}
	if !m.has(m.key.MAC("stored", password)) {
		t.Error("not remembered")
	}
}

func TestMemoIsBoundedAndKeepsUsedEntries(t *testing.T) {
	m := newMemo()
	used := m.key.MAC("used", password)
	m.add(used)
	for i := range 5 * memoHalf {
		m.add(m.key.MAC("stored", fmt.Sprint(i)))
		if i%1000 == 0 && !m.has(used) {
			t.Fatalf("forgot a used entry after %d others", i)
		}
	}
	if n := len(m.young) + len(m.old); n > 2*memoHalf {
		t.Errorf("holds %d", n)
	}
	if m.has(m.key.MAC("stored", "0")) {
		t.Error("the oldest entry is still remembered")
	}
}

func TestMemoNeedsNoSlot(t *testing.T) {
	c := NewChecker(time.Minute)
	if ok, err := c.Check(t.Context(), bcrypt05, password, semaphore.Turn{}); !ok || err != nil {
		t.Fatal(ok, err)
	}
	c.slots = semaphore.New(0)
	c.SetWait(10 * time.Millisecond)
	if ok, err := c.Check(t.Context(), bcrypt05, password, semaphore.Turn{}); !ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
	if ok, err := c.Check(t.Context(), bcrypt05, "wrong", semaphore.Turn{}); ok || !errors.Is(err, ErrBusy) {
		t.Errorf("%v, %v, want ErrBusy", ok, err)
	}
	if err := c.Decoy(t.Context(), bcrypt05, password, semaphore.Turn{}); !errors.Is(err, ErrBusy) {
		t.Errorf("decoy: %v, want ErrBusy", err)
	}
}

// The deadline of the context may be earlier than the end of the wait.
func TestDeadlineEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewChecker(time.Minute)
		c.slots = semaphore.New(0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		_, err := c.Check(ctx, bcrypt05, password, semaphore.Turn{})
		if took := time.Since(begun); took != time.Second || !errors.Is(err, ErrBusy) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after %v: %v", took, err)
		}
	})
}

// A caller that has waited while another connection of the same user was verified does not
// compute the hash, which no password matches.
func TestMemoIsCheckedAgainAfterWaiting(t *testing.T) {
	const stored = "$2y$05$abcdefghijklmnopqrstuu0000000000000000000000000000000"
	synctest.Test(t, func(t *testing.T) {
		c := NewChecker(time.Minute)
		c.slots = semaphore.New(0)
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				if ok, err := c.Check(t.Context(), stored, password, semaphore.Turn{}); !ok || err != nil {
					t.Errorf("%v, %v", ok, err)
				}
			})
		}
		synctest.Wait()
		c.memo.add(c.memo.key.MAC(stored, password))
		c.slots.Release(semaphore.Turn{})
		all.Wait()
		if ok, err := c.Check(t.Context(), stored, "wrong", semaphore.Turn{}); ok || err != nil {
			t.Errorf("wrong: %v, %v", ok, err)
		}
	})
}

func TestDecoyIsNotRemembered(t *testing.T) {
	c := NewChecker(time.Minute)
	if err := c.Decoy(t.Context(), bcrypt05, password, semaphore.Turn{}); err != nil {
		t.Fatal(err)
	}
	if len(c.memo.young) != 0 {
		t.Error("the memo holds a decoy")
	}
}

func TestLargeHashesAreComputedAlone(t *testing.T) {
	const large = "$argon2id$v=19$m=262144,t=1,p=1$fGlmwAAfnP3N58vylReYxQ$/RzM327Y5DGIZqBsUW1+g+7gORNkMmfkTCSN2lyp0xo"
	c := NewChecker(10 * time.Millisecond)
	if err := c.large.Acquire(t.Context(), semaphore.Turn{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Check(t.Context(), large, password, semaphore.Turn{}); !errors.Is(err, ErrBusy) {
		t.Errorf("a large one beside another: %v", err)
	}
	if ok, err := c.Check(t.Context(), bcrypt05, password, semaphore.Turn{}); !ok || err != nil {
		t.Errorf("a small one: %v, %v", ok, err)
	}
}

func BenchmarkMemoHit(b *testing.B) {
	c := NewChecker(time.Minute)
	if ok, err := c.Check(b.Context(), bcrypt05, password, semaphore.Turn{}); !ok || err != nil {
		b.Fatal(ok, err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if ok, err := c.Check(b.Context(), bcrypt05, password, semaphore.Turn{}); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(bcrypt05); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkHash measures the hashes of New.
func BenchmarkHash(b *testing.B) {
	for _, scheme := range Schemes() {
		stored, err := New(scheme, password)
		if err != nil {
			b.Fatal(err)
		}
		h, err := Parse(stored)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(scheme, func(b *testing.B) {
			for b.Loop() {
				if ok, err := h.Matches(password); !ok || err != nil {
					b.Fatal(ok, err)
				}
			}
		})
	}
}

// Clients that wait for a processor are served as the semaphore says: by network in turn, and
// one in four is a client without an earlier login.
func TestWaitingClientsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewChecker(time.Minute)
		c.slots = semaphore.New(0)
		var order []string
		wait := func(name string, known bool, network string) {
			go func() {
				turn := semaphore.Turn{Known: known, Network: netip.MustParsePrefix(network)}
				_, err := c.compute(t.Context(), bcrypt05, turn, func(Hash) (bool, error) {
					order = append(order, name)
					return false, nil
				})
				if err != nil {
					t.Error(err)
				}
			}()
			synctest.Wait()
		}
		for i := range 4 {
			wait(fmt.Sprint("guess", i), false, "192.0.2.0/24")
		}
		wait("owner", false, "198.51.100.0/24")
		for i := range 7 {
			wait(fmt.Sprint("known", i), true, "203.0.113.0/24")
		}
		c.slots.Release(semaphore.Turn{})
		synctest.Wait()
		want := "[known0 known1 known2 guess0 known3 known4 known5 owner known6 guess1 guess2 guess3]"
		if got := fmt.Sprint(order); got != want {
			t.Errorf("order %s, want %s", got, want)
		}
	})
}
