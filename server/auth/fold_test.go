package auth

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"unicode"

	"postern/server/auth/hash"
	"postern/server/auth/throttle"
)

func TestFold(t *testing.T) {
	for login, want := range map[string]string{
		"":                            "",
		"Alice@EXAMPLE.ORG":           "alice@example.org",
		"alice@example.org":           "alice@example.org",
		"O'Brien+Tag@Example.Org":     "o'brien+tag@example.org",
		"JÜRGEN@example.org":          "jürgen@example.org",
		"Ju\u0308rgen@example.org":    "jürgen@example.org", // NFC
		"\uff21lice":                  "alice",              // fullwidth
		"\u0391\u039b\u03a6\u0391":    "\u03b1\u03bb\u03c6\u03b1",
		"\u0410\u041b":                "\u0430\u043b",
		"Stra\u00dfe":                 "stra\u00dfe", // which is not "strasse"
		"\u1e9e":                      "\u00df",
		"\u017fun":                    "\u017fun", // long s: refused, as it is a compatibility form
		"Alice Smith":                 "Alice Smith",
		"Alice\u00a0Smith":            "Alice\u00a0Smith",
		"CORP\\Alice":                 "corp\\alice",
		"Alice\u200b":                 "Alice\u200b",
		"Alice\u00ad":                 "Alice\u00ad",
		"\u2163":                      "\u2163", // a Roman numeral
		"\u05d0lice\u0661":            "\u05d0lice\u0661",
		"Alice\u202e":                 "Alice\u202e",
		"Alice\xff":                   "Alice\xff",
		strings.Repeat("\u0130", 256): strings.Repeat("i\u0307", 256),
		"Alice@" + "\u00c4.EXAMPLE":   "alice@\u00e4.example",
		"\u0041\u030a":                "\u00e5",
		"\u212b":                      "\u00e5", // the sign of Angstrom, of which NFC makes the letter
	} {
		if got := FoldLower.Login(login); got != want {
			t.Errorf("%+q: %+q, want %+q", login, got, want)
		}
		for _, none := range []Fold{"", FoldNone} {
			if got := none.Login(login); got != login {
				t.Errorf("%q: %+q", none, got)
			}
		}
	}
	for text, ok := range map[string]bool{"lower": true, "none": true, "": false, "Lower": false, "upper": false} {
		if err := new(Fold).UnmarshalText([]byte(text)); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// Folding twice is folding once, and what is one login for a store is one for the throttle.
func TestFoldAgreesWithTheThrottle(t *testing.T) {
	for r := rune(0); r <= unicode.MaxRune; r++ {
		if !unicode.IsGraphic(r) || unicode.In(r, unicode.Han, unicode.Hangul) { // which have no case
			continue
		}
		for _, login := range []string{string(r), "a" + string(r), string(r) + "\u0308", "\u00e4" + string(r)} {
			folded := FoldLower.Login(login)
			if again := FoldLower.Login(folded); again != folded {
				t.Fatalf("%+q: %+q, then %+q", login, folded, again)
			}
			if folded != login && throttle.Fold(folded) != throttle.Fold(login) {
				t.Fatalf("%+q and %+q are one login, and are counted as two: %+q, %+q", login, folded, throttle.Fold(login), throttle.Fold(folded))
			}
		}
	}
}

func FuzzFold(f *testing.F) {
	for _, seed := range []string{"Alice@EXAMPLE.ORG", "\u0130\u0307", "Ju\u0308rgen", "\u1e9e\u03a3 ", "\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, login string) {
		folded := FoldLower.Login(login)
		if again := FoldLower.Login(folded); again != folded {
			t.Errorf("%+q: %+q, then %+q", login, folded, again)
		}
		if len(login) < 1024 && len(folded) < 1024 && throttle.Fold(folded) != throttle.Fold(login) {
			t.Errorf("%+q and %+q are one login, and are counted as two", login, folded)
		}
	})
}

// A spelled is a backend that records the logins that it is asked for.
type spelled struct{ asked []string }

func (s *spelled) VerifyPassword(_ context.Context, _ *Peer, login, password string) (Identity, error) {
	s.asked = append(s.asked, login)
	if password != "right" {
		return Identity{}, &Failure{Kind: BadPassword}
	}
	return Identity{User: "Alice@Example.org"}, nil
}

func (s *spelled) ScramKeys(_ context.Context, _ *Peer, login string) (ScramKeys, error) {
	s.asked = append(s.asked, login)
	return ScramKeys{User: "Alice@Example.org"}, nil
}

func (s *spelled) ScramDecoy(login string) ScramDecoy {
	return ScramDecoy{Login: login, ScramShape: hash.DefaultScramShape()}
}

// With fold, the backend, its cache and the decoys get one login for all spellings, with the
// default domain, too. The user is spelled as the backend spells it.
func TestFoldOfAStore(t *testing.T) {
	for fold, want := range map[Fold][]string{
		FoldLower: {"alice@example.org"},
		FoldNone:  {"alice@example.org", "ALICE@Example.ORG", "Alice@Example.org"},
		"":        {"alice@example.org", "ALICE@Example.ORG", "Alice@Example.org"},
	} {
		b := new(spelled)
		cfg := StoreDefaults()
		cfg.Fold = fold
		s := NewStore(StoreSpec{Kind: "spelled", Config: cfg, Cache: CacheConfig{TTL: 1 << 40}, Realm: "Example.org", Backend: b})
		decoys := make(map[string]bool)
		for _, login := range []string{"alice@example.org", "ALICE@Example.ORG", "Alice"} {
			id, err := s.VerifyPassword(t.Context(), &Peer{}, login, "right")
			if err != nil || id.User != "Alice@Example.org" {
				t.Errorf("%q: %+v, %v", login, id, err)
			}
			decoys[s.ScramDecoy(login).Login] = true
		}
		if strings.Join(b.asked, " ") != strings.Join(want, " ") {
			t.Errorf("%q: asked for %q, want %q", fold, b.asked, want)
		}
		if len(decoys) != len(want) {
			t.Errorf("%q: decoys of %v", fold, decoys)
		}
	}
}

// A store that folds logins beside one that does not gives its keys for one spelling only: the
// others have different decoys, as those of unknown users have.
func TestKeysOfStoresWithDifferentFolds(t *testing.T) {
	keeper := func(fold Fold, b Backend, realm string) *Store {
		cfg := StoreDefaults()
		cfg.Fold = fold
		return NewStore(StoreSpec{Kind: "spelled", Config: cfg, Realm: realm, Backend: b})
	}
	nobody := func(fold Fold, realm string) *Store { return keeper(fold, emptyKeys{}, realm) }
	logins := []string{"alice@example.org", "ALICE@Example.ORG", "Alice", "alice"}
	for name, tt := range map[string]struct {
		chain Chain
		want  string // the logins that get keys
	}{
		"folded alone":      {Chain{keeper(FoldLower, new(spelled), "example.org")}, "[alice@example.org ALICE@Example.ORG Alice alice]"},
		"both folded":       {Chain{keeper(FoldLower, new(spelled), "example.org"), nobody(FoldLower, "example.org")}, "[alice@example.org ALICE@Example.ORG Alice alice]"},
		"the other exact":   {Chain{keeper(FoldLower, new(spelled), "example.org"), nobody(FoldNone, "example.org")}, "[alice@example.org alice]"},
		"the first one":     {Chain{nobody(FoldNone, "example.org"), keeper(FoldLower, new(spelled), "example.org")}, "[alice@example.org alice]"},
		"a domain in mixed": {Chain{keeper(FoldLower, new(spelled), "Example.org"), nobody(FoldNone, "Example.org")}, "[alice@example.org]"},
		"neither is folded": {Chain{keeper(FoldNone, new(spelled), "example.org"), nobody(FoldNone, "example.org")}, "[alice@example.org ALICE@Example.ORG Alice alice]"},
	} {
		keys := tt.chain.Keys()
		var got []string
		salts := make(map[string]bool)
		for _, login := range logins {
			k, err := keys.ScramKeys(t.Context(), &Peer{}, login)
			if err == nil && k.User != "" {
				got = append(got, login)
				salts[keys.ScramDecoy(login).Login] = true
			} else if f := asFailure(err); f == nil {
				t.Errorf("%s: %q: %v", name, login, err)
			}
		}
		if fmt.Sprint(got) != tt.want {
			t.Errorf("%s: keys for %v, want %s", name, got, tt.want)
		}
		if tt.chain[0].config.Fold != FoldNone || tt.chain[len(tt.chain)-1].config.Fold != FoldNone {
			if len(salts) != 1 {
				t.Errorf("%s: one user in place of %d unknown ones", name, len(salts))
			}
		}
	}
}

// emptyKeys has no user.
type emptyKeys struct{}

func (emptyKeys) ScramKeys(context.Context, *Peer, string) (ScramKeys, error) {
	return ScramKeys{}, &Failure{Kind: NoSuchUser}
}

func (emptyKeys) ScramDecoy(login string) ScramDecoy {
	return ScramDecoy{Login: login, ScramShape: hash.DefaultScramShape()}
}
