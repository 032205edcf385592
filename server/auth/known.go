package auth

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

const (
	knownFor      = 30 * 24 * time.Hour
	knownLogins   = 1 << 15 // logins remembered; at the worst 50 MiB
	knownPerLogin = 16      // addresses remembered for each
	knownPerUser  = 8       // logins remembered of one user
	knownMistakes = 10      // different wrong passwords that a pair may try
)

// knownPairs remembers which login has succeeded from which address. Only a
// right password adds a pair, each login has room for a few addresses of its own,
// and each user for a few logins: a store that is asked for the local part takes
// alice@ with whatever behind it, and another one whatever case or accents. So
// somebody who has one account can displace nobody else's pairs.
type knownPairs struct {
	logins *lru[string, []knownPair]
	users  *lru[string, []string] // the logins of each, the oldest first
}

type knownPair struct {
	from     netip.Prefix
	last     time.Time
	mistakes int // different wrong passwords since last
}

func newKnownPairs() knownPairs {
	return knownPairs{newLRU[string, []knownPair](knownLogins), newLRU[string, []string](knownLogins)}
}

// pairKey makes one of the spellings that stores take for the same login.
func pairKey(login string) string { return strings.ToLower(login) }

func (k knownPairs) has(login string, from netip.Prefix, now time.Time) bool {
	pairs, _ := k.logins.get(pairKey(login))
	i := indexPair(pairs, from)
	return i >= 0 && now.Sub(pairs[i].last) < knownFor
}

// succeeded remembers the pair, in place of the oldest if there is no room.
func (k knownPairs) succeeded(user, login string, from netip.Prefix, now time.Time) {
	k.spelt(user, pairKey(login))
	pairs, _ := k.logins.get(pairKey(login))
	if i := indexPair(pairs, from); i >= 0 {
		pairs = slices.Delete(pairs, i, i+1)
	}
	if len(pairs) == knownPerLogin {
		pairs = slices.Delete(pairs, 0, 1)
	}
	k.logins.put(pairKey(login), append(pairs, knownPair{from: from, last: now}))
}

// spelt remembers how a user has written himself, in place of the oldest if there
// is no room.
func (k knownPairs) spelt(user, login string) {
	logins, _ := k.users.get(user)
	logins = slices.DeleteFunc(logins, func(l string) bool { return l == login })
	if len(logins) == knownPerUser {
		k.logins.remove(logins[0])
		logins = slices.Delete(logins, 0, 1)
	}
	k.users.put(user, append(logins, login))
}

// mistaken counts a wrong password. A pair that goes on guessing is forgotten,
// or the neighbour of a user could guess without ever having to wait.
func (k knownPairs) mistaken(login string, from netip.Prefix) {
	pairs, _ := k.logins.get(pairKey(login))
	i := indexPair(pairs, from)
	if i < 0 {
		return
	}
	if pairs[i].mistakes++; pairs[i].mistakes >= knownMistakes {
		k.logins.put(pairKey(login), slices.Delete(pairs, i, i+1))
	}
}

func indexPair(pairs []knownPair, from netip.Prefix) int {
	return slices.IndexFunc(pairs, func(p knownPair) bool { return p.from == from })
}
