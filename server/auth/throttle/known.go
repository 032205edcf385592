package throttle

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"postern/internal/lru"
)

const (
	knownFor      = 30 * 24 * time.Hour
	knownLogins   = 1 << 15 // logins remembered; at the worst 50 MiB
	knownPerLogin = 16      // addresses remembered for each
	knownPerUser  = 8       // logins remembered of one user
	knownMistakes = 10      // different wrong passwords that a pair may try
)

// knownPairs remembers which login has succeeded from which address. Logins are
// compared in lower case, since several spellings are one login to most stores.
//
// Only a right password adds a pair. Each login has room for a few addresses, and each
// user for a few logins: a store that is asked for the local part accepts alice@ with
// any domain after it, and another store any case or accents. So a user with one account
// cannot displace the pairs of other users.
type knownPairs struct {
	logins *lru.Map[string, []knownPair]
	users  *lru.Map[string, []string] // the logins of each, the oldest first
}

type knownPair struct {
	from     netip.Prefix
	last     time.Time
	mistakes int // different wrong passwords since last
}

func newKnownPairs() knownPairs {
	return knownPairs{lru.New[string, []knownPair](knownLogins), lru.New[string, []string](knownLogins)}
}

func (k knownPairs) has(login string, from netip.Prefix, now time.Time) bool {
	pairs, _ := k.logins.Get(strings.ToLower(login))
	i := indexPair(pairs, from)
	return i >= 0 && now.Sub(pairs[i].last) < knownFor
}

// succeeded remembers the pair, and the login as one of the user's. Each replaces the
// oldest one if there is no room.
func (k knownPairs) succeeded(user, login string, from netip.Prefix, now time.Time) {
	login = strings.ToLower(login)
	logins, _ := k.users.Get(user)
	logins = slices.DeleteFunc(logins, func(l string) bool { return l == login })
	if len(logins) == knownPerUser {
		k.logins.Remove(logins[0])
		logins = slices.Delete(logins, 0, 1)
	}
	k.users.Put(user, append(logins, login))

	pairs, _ := k.logins.Get(login)
	if i := indexPair(pairs, from); i >= 0 {
		pairs = slices.Delete(pairs, i, i+1)
	}
	if len(pairs) == knownPerLogin {
		pairs = slices.Delete(pairs, 0, 1)
	}
	k.logins.Put(login, append(pairs, knownPair{from: from, last: now}))
}

// mistaken counts a wrong password. A pair with too many of them is removed, or the
// neighbour of a user could guess without any delay.
func (k knownPairs) mistaken(login string, from netip.Prefix) {
	login = strings.ToLower(login)
	pairs, _ := k.logins.Get(login)
	i := indexPair(pairs, from)
	if i < 0 {
		return
	}
	if pairs[i].mistakes++; pairs[i].mistakes >= knownMistakes {
		k.logins.Put(login, slices.Delete(pairs, i, i+1))
	}
}

func indexPair(pairs []knownPair, from netip.Prefix) int {
	return slices.IndexFunc(pairs, func(p knownPair) bool { return p.from == from })
}
