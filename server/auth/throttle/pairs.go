package throttle

import (
	"slices"
	"time"

	"postern/internal/lru"
)

const (
	knownFor      = 30 * 24 * time.Hour
	knownLogins   = 1 << 15 // logins remembered; at the worst 100 MiB, if each has all its addresses
	knownPerLogin = 16      // addresses remembered for each
	knownPerUser  = 8       // logins remembered of one user
)

// pairMistakes bounds the different wrong passwords of a known pair, networkMistakes those
// from other addresses of its network, and userMistakes those of all pairs of a user
// together. A success does not bring them back, otherwise a client that alternates right and
// wrong passwords could guess for ever, nor does a new pair or a new spelling. While all are
// used up, the pair is an ordinary login of its address. A guesser in one network of a user
// cannot use up what the user has in other networks.
var (
	pairMistakes    = rate{most: 10, perHour: 10}
	networkMistakes = rate{most: 5, perHour: 5}
	userMistakes    = rate{most: 20, perHour: 20}
)

// knownPairs remembers which login has succeeded from which address.
//
// A pair belongs to the identity that the store returned together with the login as it was
// sent: "Bob" makes nothing known of "bob". If a store returns another identity for a login
// than before, the pairs of the login are forgotten.
//
// Only a correct password adds a pair. The addresses of a login are limited, and so are the
// logins of a user, because many logins may be one user: alice at any domain in a store
// that uses only the local part, or any spelling in a store that ignores case or accents.
// So a user with one account cannot displace the pairs of other users: that takes thousands
// of accounts.
type knownPairs struct {
	logins *lru.Map[id, *knownLogin]
	users  *lru.Map[id, *knownUser]
}

type knownUser struct {
	logins   []id // the oldest first
	mistakes budget
}

type knownLogin struct {
	user  id
	pairs []*knownPair // the oldest first
}

type knownPair struct {
	at       pairPlace
	last     time.Time // of the success
	mistakes budget    // from the address
	nearby   budget    // from other addresses of the network
}

// A pairPlace is where a login has succeeded. The ids of an address are different for each
// login.
type pairPlace struct{ addr, network id }

type pairIDs struct {
	login id
	pairPlace
}

func newKnownPairs() knownPairs {
	return knownPairs{lru.New[id, *knownLogin](knownLogins), lru.New[id, *knownUser](knownLogins)}
}

// pairIDs returns the ids of the login and the address of an attempt.
func (t *Throttle) pairIDs(a *Attempt) pairIDs {
	name := t.name(a.login)
	return pairIDs{t.id("login", name, ""), pairPlace{t.id("address", name, a.from.String()), t.id("network", name, a.network.String())}}
}

// A mistake is one wrong password that an attempt has reserved.
type mistake struct {
	of   *budget // of the pair or the network
	rate rate
	all  *budget // of the user
}

func (m *mistake) giveBack(now time.Time) {
	m.of.giveBack(now, m.rate)
	m.all.giveBack(now, userMistakes)
}

// reserve reserves a mistake of the pair, or of the network. It returns nil if the login is
// not known there, or has no mistakes left.
func (k knownPairs) reserve(ids pairIDs, now time.Time) (m *mistake, known bool) {
	login, ok := k.logins.Get(ids.login)
	if !ok {
		return nil, false
	}
	user, ok := k.users.Get(login.user)
	if !ok || user.mistakes.left(now, userMistakes) < 1 {
		return nil, false
	}
	for _, p := range login.pairs {
		switch {
		case now.Sub(p.last) >= knownFor || known:
		case p.at.addr == ids.addr:
			m, known = &mistake{&p.mistakes, pairMistakes, &user.mistakes}, true
		case p.at.network == ids.network && (m == nil || p.nearby.left(now, m.rate) < m.of.left(now, m.rate)):
			// The one that has been used: the network has only one budget.
			m = &mistake{&p.nearby, networkMistakes, &user.mistakes}
		}
	}
	if m == nil || !m.of.take(now, m.rate) {
		return nil, false
	}
	user.mistakes.take(now, userMistakes)
	return m, known
}

// holds reports whether the mistake still belongs to a pair of the login.
func (k knownPairs) holds(ids pairIDs, m *mistake) bool {
	login, ok := k.logins.Get(ids.login)
	return ok && slices.ContainsFunc(login.pairs, func(p *knownPair) bool { return m.of == &p.mistakes || m.of == &p.nearby })
}

// succeeded remembers the pair, and the login as one of the user's. Each replaces the
// oldest one if there is no room. The mistakes of a pair stay.
func (k knownPairs) succeeded(user id, ids pairIDs, now time.Time) {
	k.own(user, ids.login)
	login, ok := k.logins.Get(ids.login)
	if !ok || login.user != user {
		login = &knownLogin{user: user}
	}
	pair := &knownPair{at: ids.pairPlace}
	if i := slices.IndexFunc(login.pairs, func(p *knownPair) bool { return p.at.addr == ids.addr }); i >= 0 {
		pair = login.pairs[i]
		login.pairs = slices.Delete(login.pairs, i, i+1)
	}
	if len(login.pairs) == knownPerLogin {
		login.pairs = slices.Delete(login.pairs, 0, 1)
	}
	pair.last = now
	login.pairs = append(login.pairs, pair)
	k.logins.Put(ids.login, login)
}

// own makes the login the newest of the user's logins, and forgets the oldest one if there
// are too many, unless it has become the login of another user.
func (k knownPairs) own(user, login id) {
	u, ok := k.users.Get(user)
	if !ok {
		u = new(knownUser)
	}
	u.logins = slices.DeleteFunc(u.logins, func(l id) bool { return l == login })
	if len(u.logins) == knownPerUser {
		if oldest, ok := k.logins.Get(u.logins[0]); ok && oldest.user == user {
			k.logins.Remove(u.logins[0])
		}
		u.logins = slices.Delete(u.logins, 0, 1)
	}
	u.logins = append(u.logins, login)
	k.users.Put(user, u)
}
