package hash

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/internal/semaphore"
)

// Every scheme has a sample, of the kind that was asked for, which can be computed.
func TestSamples(t *testing.T) {
	for stored, name := range vectors(t) {
		h, err := Parse(stored)
		if err != nil {
			t.Fatal(err)
		}
		sample, err := Parse(h.Kind().Sample())
		if err != nil || sample.Kind() != h.Kind() || sample.large != h.large || sample.longest != h.longest {
			t.Errorf("%s: a sample of kind %q, %v", name, sample.Kind(), err)
			continue
		}
		for _, password := range []string{password, "PosternDecoy"} {
			if ok, err := sample.Matches(password); ok || err != nil {
				t.Errorf("%s: the sample: %v, %v", name, ok, err)
			}
		}
	}
	for _, s := range schemes {
		if s.sample == "" {
			t.Errorf("%s has no sample", s.name)
		}
	}
	if got := Kind("").Sample(); got != DefaultDecoy {
		t.Errorf("no kind: %s", got)
	}
}

func TestKindsInTheConfiguration(t *testing.T) {
	for text, want := range map[string]Kind{
		"bcrypt 12":                "bcrypt 12",
		" BCRYPT  5 ":              "bcrypt 5",
		"bcrypt 05":                "bcrypt 5",
		"bcrypt-sha256 12":         "bcrypt-sha256 12",
		"sha512-crypt 5000":        "sha512-crypt 5000",
		"argon2id 19456,2,1":       "argon2id 19456,2,1",
		"yescrypt j9T":             "yescrypt j9T",
		"apr1":                     "apr1",
		"ssha":                     "ssha",
		"scram-sha-256 65536":      "scram-sha-256 65536",
		"scram-sha-256 100":        "",
		"bcrypt":                   "",
		"bcrypt 99":                "",
		"bcrypt ten":               "",
		"ssha 1":                   "",
		"argon2id 19456":           "",
		"argon2id 99999999999,1,1": "",
		"rot13":                    "",
		"":                         "",
		"$2y$10$abc":               "",
		"bcrypt %s":                "",
	} {
		var k Kind
		err := k.UnmarshalText([]byte(text))
		if k != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", text, k, err)
		}
		if err != nil && !strings.Contains(err.Error(), `"bcrypt 10"`) {
			t.Errorf("%q: no example in %v", text, err)
		}
	}
}

func mustParse(t *testing.T, k Kind) Hash {
	t.Helper()
	h, err := Parse(k.Sample())
	if err != nil || h.Kind() != k {
		t.Fatal(k, h.Kind(), err)
	}
	return h
}

// The most common kind is chosen, whatever the order. Of two that are as common it is always the
// same one.
func TestTally(t *testing.T) {
	for _, tt := range []struct {
		kinds []Kind
		want  Kind
	}{
		{nil, DefaultKind},
		{[]Kind{"ssha"}, "ssha"},
		{[]Kind{"ssha", "bcrypt 12", "bcrypt 12"}, "bcrypt 12"},
		{[]Kind{"bcrypt 12", "ssha"}, "bcrypt 12"},
		{[]Kind{"ssha", DefaultKind, "apr1"}, DefaultKind},
		{[]Kind{"ssha", "apr1", "ssha", DefaultKind}, "ssha"},
	} {
		backwards := slices.Clone(tt.kinds)
		slices.Reverse(backwards)
		for _, kinds := range [][]Kind{tt.kinds, backwards} {
			var tally Tally
			for _, k := range kinds {
				tally.Add(mustParse(t, k))
			}
			tally.Add(Hash{}) // locked
			if got := tally.Kind(); got != tt.want {
				t.Errorf("%q: %q, want %q", kinds, got, tt.want)
			}
		}
	}
}

// A user counts once, however often and under whichever spelling, so an attacker with two
// accounts cannot choose the decoy of a store with more users, neither first nor last.
func TestCensusCountsUsers(t *testing.T) {
	cheap, usual := mustParse(t, "ssha"), mustParse(t, "bcrypt 12")
	rare, common := mustParse(t, "scram-sha-256 5000"), mustParse(t, "scram-sha-256 65536")
	c := NewCensus()
	attack := func() {
		for i := range 100 {
			c.Add([]string{"mallory", "Mallory", "MALLORY"}[i%3], cheap)
			c.Add("mal", rare)
		}
	}
	attack()
	for i := range 3 {
		c.Add(fmt.Sprint("user", i), usual)
		c.Add(fmt.Sprint("scram", i), common)
	}
	c.Add("another", usual)
	if c.Kind() != "bcrypt 12" || c.Shape().Iterations != 65536 {
		t.Errorf("%q, %v", c.Kind(), c.Shape())
	}
	attack()
	if c.Kind() != "bcrypt 12" || c.Shape().Iterations != 65536 {
		t.Errorf("at last: %q, %v", c.Kind(), c.Shape())
	}
	if got := c.tally.kinds["ssha"]; got != 1 {
		t.Errorf("one user counts %d times", got)
	}
}

// A user whose hash has changed counts for the new one only.
func TestCensusFollowsChanges(t *testing.T) {
	c := NewCensus()
	for i := range 3 {
		c.Add(fmt.Sprint(i), mustParse(t, "scram-sha-256 5000"))
	}
	for i := range 3 {
		c.Add(fmt.Sprint(i), mustParse(t, "bcrypt 12"))
		c.Add(fmt.Sprint(i), Hash{}) // locked: it has no kind
	}
	if want := map[Kind]int{"bcrypt 12": 3}; !maps.Equal(c.tally.kinds, want) || len(c.tally.shapes) > 0 || c.Shape() != DefaultScramShape() {
		t.Errorf("%v, %v, %v", c.tally.kinds, c.tally.shapes, c.Shape())
	}
}

func TestCensusIsBounded(t *testing.T) {
	c := NewCensus()
	for i := range 3 * maxSeen {
		c.Add(fmt.Sprint(i), mustParse(t, "ssha"))
		if i < 2*maxSeen {
			continue
		}
		c.Add("the last", mustParse(t, "bcrypt 12"))
	}
	if len(c.users) != maxSeen || len(c.order) != maxSeen || c.tally.kinds["ssha"]+c.tally.kinds["bcrypt 12"] != maxSeen {
		t.Errorf("%d users, %d in order, tally %v", len(c.users), len(c.order), c.tally.kinds)
	}
}

// A decoy is one hash of its kind, as a wrong password is.
func TestTraceOfHashes(t *testing.T) {
	c := NewChecker(time.Minute)
	var computed []Kind
	ctx := WithTrace(t.Context(), func(k Kind) { computed = append(computed, k) })
	if ok, err := c.Check(ctx, bcrypt05, password, semaphore.Turn{}); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if _, err := c.Check(ctx, bcrypt05, password, semaphore.Turn{}); err != nil { // by the memo
		t.Fatal(err)
	}
	if err := c.Decoy(ctx, Kind("apr1").Sample(), password, semaphore.Turn{}); err != nil {
		t.Fatal(err)
	}
	if want := []Kind{"bcrypt 5", "apr1"}; !slices.Equal(computed, want) {
		t.Errorf("%q, want %q", computed, want)
	}
	if err := c.Decoy(context.Background(), DefaultDecoy, "", semaphore.Turn{}); err != nil {
		t.Fatal(err)
	}
}

// Stores of one name share what is known of their users, also after a reload.
func TestCensusOfStore(t *testing.T) {
	c := NewChecker(time.Minute)
	before, after := c.Census("a"), c.Census("a")
	if before != after || before == c.Census("b") {
		t.Error("not one for each store")
	}
}
