package hash

import (
	"cmp"
	"fmt"
	"strings"
	"sync"
)

// A Kind is a scheme and its cost, as [Hash.Kind] returns them: "bcrypt 10", "sha512-crypt
// 5000", "argon2id 19456,2,1", "apr1". Hashes of the same kind take the same time to compare.
// The zero value is none.
type Kind string

// DefaultKind is the kind of decoy for a store in which no hash has been seen.
const DefaultKind Kind = "bcrypt 10"

// UnmarshalText implements encoding.TextUnmarshaler. The scheme may be in any case.
func (k *Kind) UnmarshalText(text []byte) error {
	scheme, cost, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	sample, ok := Kind(strings.ToLower(scheme) + " " + strings.TrimSpace(cost)).sample()
	h, err := Parse(sample)
	switch {
	case !ok:
		return fmt.Errorf("%q is not the kind of a password hash; write its scheme and its cost, %s", text, kindExamples)
	case err != nil:
		why := strings.TrimSuffix(err.Error(), setAnother) // there is no password
		return fmt.Errorf("%q is not the kind of a password hash: %s; write its scheme and its cost, %s", text, why, kindExamples)
	}
	*k = h.Kind()
	return nil
}

const kindExamples = `such as "bcrypt 10" for $2y$10$..., "sha512-crypt 5000" for $6$..., ` +
	`"argon2id 19456,2,1" for $argon2id$v=19$m=19456,t=2,p=1$..., "yescrypt j9T" for $y$j9T$..., or "ssha" for {SSHA}`

// Sample returns a hash of the kind. No password is known that matches it.
func (k Kind) Sample() string {
	if sample, ok := k.sample(); ok {
		return sample
	}
	return DefaultDecoy
}

// sample returns a hash of the kind, or false if there is no such scheme, or it has another
// number of costs. The costs themselves are not checked.
func (k Kind) sample() (string, bool) {
	name, cost, _ := strings.Cut(string(k), " ")
	var costs []any
	if cost != "" {
		for one := range strings.SplitSeq(cost, ",") {
			costs = append(costs, one)
		}
	}
	for _, s := range schemes {
		if s.name != name || strings.Count(s.sample, "%s") != len(costs) {
			continue
		}
		if s.name == bcryptName && len(cost) == 1 {
			costs[0] = "0" + cost
		}
		return fmt.Sprintf(s.sample, costs...), true
	}
	return "", false
}

// A Tally counts hashes by their kind, and SCRAM keys by their shape, to choose decoys that
// are like most of them. The zero value is empty. It may not be used by several goroutines at
// once.
type Tally struct {
	kinds  map[Kind]int
	shapes map[ScramShape]int
}

// Add counts the hash of one user. A locked hash does not count.
func (t *Tally) Add(h Hash) {
	if !h.Locked() {
		t.add(countedAs(h), 1)
	}
}

// counted is what a Tally counts of a hash. The shape is zero if it consists of no keys.
type counted struct {
	kind  Kind
	shape ScramShape
}

func countedAs(h Hash) counted {
	c := counted{kind: h.Kind()}
	if keys, ok := h.ScramKeys(); ok {
		c.shape = keys.Shape()
	}
	return c
}

func (t *Tally) add(c counted, n int) {
	if t.kinds == nil {
		t.kinds, t.shapes = make(map[Kind]int), make(map[ScramShape]int)
	}
	if t.kinds[c.kind] += n; t.kinds[c.kind] == 0 {
		delete(t.kinds, c.kind)
	}
	if c.shape == (ScramShape{}) {
		return
	}
	if t.shapes[c.shape] += n; t.shapes[c.shape] == 0 {
		delete(t.shapes, c.shape)
	}
}

// Kind returns the most common kind, or [DefaultKind] if there is none. Of several that are as
// common, it is always the same one, so that an attacker cannot choose by the order of logins.
func (t *Tally) Kind() Kind {
	return mostCommon(t.kinds, DefaultKind, cmp.Compare[Kind])
}

// Shape returns the most common shape of SCRAM keys, or that of [New] if there is none. Of
// several that are as common, it is always the same one, since clients see it.
func (t *Tally) Shape() ScramShape {
	return mostCommon(t.shapes, DefaultScramShape(), func(a, b ScramShape) int {
		return cmp.Or(cmp.Compare(a.Iterations, b.Iterations), cmp.Compare(a.SaltLength, b.SaltLength))
	})
}

// mostCommon returns the key with the highest count: of several, usual if it is one of them,
// and otherwise the first in order. Without any key it is usual.
func mostCommon[K comparable](counts map[K]int, usual K, order func(a, b K) int) K {
	most, n := usual, counts[usual]
	for k, count := range counts {
		if count > n || count == n && most != usual && order(k, most) < 0 {
			most, n = k, count
		}
	}
	return most
}

// maxSeen is how many users a Census knows, in some 100 bytes each.
const maxSeen = 4096

// A Census is a Tally of the users that the logins to a store have shown, for a store that
// cannot list its users. Each user counts once, however often she is looked up and under
// whichever spelling: an attacker with a few accounts has a few votes, and a login that does
// not exist has none. Nothing is kept on disk.
//
// When there are more than 4,096 users, a new one replaces the one that was seen first. It may
// be used by many goroutines at once.
type Census struct {
	key Key

	mu    sync.Mutex
	tally Tally
	users map[[16]byte]counted // by the MAC of the user's name
	order [][16]byte           // of users; a ring when there are maxSeen
	next  int                  // the first one of the ring
	kind  Kind                 // of tally
	shape ScramShape           // of tally
}

// NewCensus returns a Census without users.
func NewCensus() *Census {
	c := &Census{key: NewKey(), users: make(map[[16]byte]counted)}
	c.kind, c.shape = c.tally.Kind(), c.tally.Shape()
	return c
}

// Add counts the hash of a user, by the canonical name. If the user has been counted before,
// h replaces the hash of then. A locked hash does not count.
func (c *Census) Add(user string, h Hash) {
	if h.Locked() {
		return
	}
	// A table may have a user under names of different case. Users that differ in nothing
	// else are too few to matter.
	id, now := c.key.MAC(strings.ToLower(user), ""), countedAs(h)
	c.mu.Lock()
	defer c.mu.Unlock()
	before, known := c.users[id]
	switch {
	case known && before == now:
		return
	case known:
		c.tally.add(before, -1)
	default:
		c.enter(id)
	}
	c.users[id] = now
	c.tally.add(now, 1)
	c.kind, c.shape = c.tally.Kind(), c.tally.Shape()
}

// enter makes room for one more user.
func (c *Census) enter(id [16]byte) {
	if len(c.order) < maxSeen {
		c.order = append(c.order, id)
		return
	}
	first := c.order[c.next]
	c.tally.add(c.users[first], -1)
	delete(c.users, first)
	c.order[c.next] = id
	c.next = (c.next + 1) % maxSeen
}

// Kind is [Tally.Kind].
func (c *Census) Kind() Kind {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kind
}

// Shape is [Tally.Shape].
func (c *Census) Shape() ScramShape {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.shape
}

// Shape returns the shape of decoys of SCRAM keys, if k is the kind of such keys, and otherwise
// the shape that is usual.
func (k Kind) Shape(usual ScramShape) ScramShape {
	h, err := Parse(k.Sample())
	if err != nil {
		return usual
	}
	if keys, ok := h.ScramKeys(); ok {
		return keys.Shape()
	}
	return usual
}
