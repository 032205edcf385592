package throttle

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"

	"postern/server/auth/hash"
)

// MaxSaved bounds what Save returns: 32,768 logins with all their addresses (24 MiB), as many
// users, 65,536 networks and 65,536 counts.
const MaxSaved = 32 << 20 // bytes

// savedFormat is the first line of what Save returns. Another version has another number, and
// Load refuses an unknown one.
const savedFormat = "postern throttle 1\n"

var errDamaged = errors.New("it is damaged or was written with another secret")

// Save returns the known pairs, the counts of logins and the failures of networks, for Load
// after a restart. Logins, users and addresses of known pairs are HMACs. Networks with
// failures are readable, and nothing else is. The penalties of addresses are not saved.
func (t *Throttle) Save() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	w := encoder{*bytes.NewBufferString(savedFormat)}
	w.time(now)
	w.known(t.known, now)
	w.networks(t.networks)
	w.counts(t.logins, now)
	t.changed = false
	return append(w.Bytes(), checksum(t.ids, w.Bytes())...)
}

// Changed reports whether there is anything that the last Save did not have.
func (t *Throttle) Changed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changed
}

// Load takes over what Save has returned, nil for nothing. It is called before the first
// attempt. ids is the key of the HMACs, always the same. After an error nothing is taken over,
// and the Throttle can be used nevertheless.
func (t *Throttle) Load(ids hash.Key, saved []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ids = ids
	if saved == nil {
		return nil
	}
	body, ok := bytes.CutPrefix(saved, []byte(savedFormat))
	if !ok {
		return errors.New("it has another format than this version of postern writes")
	}
	end := len(saved) - sha256.Size
	if end < len(savedFormat) || !hmac.Equal(saved[end:], checksum(ids, saved[:end])) {
		return errDamaged
	}
	known, networks, counts := newKnownPairs(), newNetworks(), newLoginCounts()
	r := decoder{rest: body[:len(body)-sha256.Size], now: time.Now()}
	r.saved = r.time()
	r.known(known)
	r.networks(networks)
	r.counts(counts)
	if r.short || len(r.rest) > 0 {
		return fmt.Errorf("%w: it has another length", errDamaged)
	}
	t.known, t.networks, t.logins = known, networks, counts
	return nil
}

func checksum(key hash.Key, of []byte) []byte {
	h := hmac.New(sha256.New, key[:])
	h.Write([]byte("saved\x00"))
	h.Write(of)
	return h.Sum(nil)
}

// An encoder writes numbers in big-endian order, and times as seconds. Budgets are written
// as they are at the time of the file.
type encoder struct{ bytes.Buffer }

func (w *encoder) uint32(n int)     { w.Write(binary.BigEndian.AppendUint32(nil, uint32(n))) }
func (w *encoder) time(t time.Time) { w.Write(binary.BigEndian.AppendUint64(nil, uint64(t.Unix()))) }

func (w *encoder) budget(b *budget, r rate, now time.Time) {
	used := float32(r.most - b.left(now, r))
	w.Write(binary.BigEndian.AppendUint32(nil, math.Float32bits(used)))
}

func (w *encoder) known(k knownPairs, now time.Time) {
	w.uint32(k.users.Len())
	for user, u := range k.users.All() {
		w.Write(user[:])
		w.budget(&u.mistakes, userMistakes, now)
		w.WriteByte(byte(len(u.logins)))
		for _, l := range u.logins {
			w.Write(l[:])
		}
	}
	w.uint32(k.logins.Len())
	for login, l := range k.logins.All() {
		w.Write(login[:])
		w.Write(l.user[:])
		w.WriteByte(byte(len(l.pairs)))
		for _, p := range l.pairs {
			w.Write(p.at.addr[:])
			w.Write(p.at.network[:])
			w.time(p.last)
			w.budget(&p.mistakes, pairMistakes, now)
			w.budget(&p.nearby, networkMistakes, now)
		}
	}
}

func (w *encoder) networks(all networks) {
	failed := 0
	for _, n := range all.active {
		if n.failures > 0 {
			failed++
		}
	}
	w.uint32(failed + all.idle.Len())
	for prefix, n := range all.idle.All() {
		w.network(prefix, n)
	}
	for prefix, n := range all.active {
		if n.failures > 0 {
			w.network(prefix, n)
		}
	}
}

func (w *encoder) network(prefix netip.Prefix, n *network) {
	addr := prefix.Addr().As16()
	w.Write(addr[:])
	w.WriteByte(byte(prefix.Bits()))
	w.uint32(n.failures)
	w.time(n.last)
}

// counts writes the counts of which something is used up. A remainder that is lost in rounding,
// as it comes from adding and subtracting for hours, is nothing.
func (w *encoder) counts(all *loginCounts, now time.Time) {
	var used []int
	for i := range all.counts {
		if all.counts[i].left(now, guessRate) < guessRate.most {
			used = append(used, i)
		}
	}
	w.uint32(len(used))
	for _, i := range used {
		w.Write(binary.BigEndian.AppendUint16(nil, uint16(i)))
		w.budget(&all.counts[i], guessRate, now)
	}
}

// A decoder reads what an encoder has written. Once it is short of data, it returns zeros.
type decoder struct {
	rest  []byte
	short bool
	now   time.Time
	saved time.Time
}

func (r *decoder) bytes(n int) []byte {
	if len(r.rest) < n {
		r.short, r.rest = true, nil
		return make([]byte, n)
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *decoder) byte() int   { return int(r.bytes(1)[0]) }
func (r *decoder) uint32() int { return int(binary.BigEndian.Uint32(r.bytes(4))) }
func (r *decoder) id() id      { return id(r.bytes(16)) }

// time returns a time that is not in the future, whatever has happened to the clock.
func (r *decoder) time() time.Time {
	t := time.Unix(int64(binary.BigEndian.Uint64(r.bytes(8))), 0)
	if t.After(r.now) {
		return r.now
	}
	return t
}

func (r *decoder) budget() budget {
	used := math.Float32frombits(binary.BigEndian.Uint32(r.bytes(4)))
	return budget{used: float64(used), at: r.saved}
}

// repeat calls read as often as the next number says.
func (r *decoder) repeat(read func()) {
	for n := r.uint32(); n > 0 && !r.short; n-- {
		read()
	}
}

func (r *decoder) known(k knownPairs) {
	r.repeat(func() {
		user, u := r.id(), &knownUser{mistakes: r.budget()}
		for range r.byte() {
			u.logins = append(u.logins, r.id())
		}
		k.users.Put(user, u)
	})
	r.repeat(func() {
		login, l := r.id(), &knownLogin{user: r.id()}
		for range r.byte() {
			l.pairs = append(l.pairs, &knownPair{
				at: pairPlace{addr: r.id(), network: r.id()}, last: r.time(), mistakes: r.budget(), nearby: r.budget(),
			})
		}
		k.logins.Put(login, l)
	})
}

func (r *decoder) networks(all networks) {
	r.repeat(func() {
		addr := netip.AddrFrom16([16]byte(r.bytes(16)))
		bits := r.byte()
		if addr.Is4In6() {
			addr = addr.Unmap()
		}
		all.idle.Put(netip.PrefixFrom(addr, bits), &network{failures: r.uint32(), last: r.time()})
	})
}

func (r *decoder) counts(all *loginCounts) {
	r.repeat(func() {
		i := binary.BigEndian.Uint16(r.bytes(2))
		all.counts[i] = r.budget()
	})
}
