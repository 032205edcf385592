// Package hash compares passwords with stored password hashes, for every store
// that keeps such hashes itself.
//
// [Parse] reads a stored hash, [New] makes one, and a [Checker] compares: it sees
// to it that the machine is not drowned in hashing, and that a client which
// logs in again and again is hashed only once.
//
// Known schemes, in the spelling of crypt(3), of Apache's htpasswd and, where
// Dovecot writes a {SCHEME} in front, with that:
//
//	$2a$ $2b$ $2x$ $2y$             bcrypt            {BLF-CRYPT} {CRYPT}
//	$bcrypt-sha256$                 bcrypt of HMAC    {CRYPT}; passlib, Mailu
//	$5$ $6$                         SHA-crypt         {SHA256-CRYPT} {SHA512-CRYPT} {CRYPT}
//	$argon2id$ $argon2i$ $argon2d$  Argon2 (RFC 9106) {ARGON2ID} {ARGON2I} {CRYPT}
//	$y$                             yescrypt          {CRYPT}
//	$apr1$ $1$                      MD5-crypt         {MD5-CRYPT} {CRYPT}
//	{SHA} {SSHA}                    one round of SHA-1, as Apache and LDAP write it
//	{SCRAM-SHA-256}                 the keys of RFC 7677, as Dovecot writes them
//
// Not known are traditional DES crypt, $gy$, $7$ (scrypt), PBKDF2, SSHA-256 and
// above, hexadecimal encodings, and anything in clear text. No hash function is
// written here: they come from go-htpasswd, go-crypt, x/crypto and crypto. To
// add a scheme that one of them knows, write its row in schemes.go.
//
// What is stored is not trusted: a hash that would take a gigabyte more, or
// minutes, to compare is refused when it is read. No error of this package
// repeats any part of a hash or a password.
package hash

import (
	"errors"
	"strings"
)

// ErrUnknown is returned by Parse for what no known scheme has written.
var ErrUnknown = errors.New("unknown password scheme; set a new password, or see the documentation for the schemes that are known")

// maxStored is longer than the hash of any known scheme, in bytes.
const maxStored = 512

// A Hash is a stored password hash that can be compared with. The zero Hash is
// locked: no password matches it. It may be used by several goroutines at once.
type Hash struct {
	scheme string
	cost   string // two hashes of one scheme and one cost take the same time
	large  bool   // needs so much memory that one at a time is enough
	scram  *ScramKeys
	match  func(password string) (bool, error)

	longest int // octets of a password
}

// Parse reads a stored hash. An empty hash, "x", and whatever begins with "!" or
// "*" is a locked account and no error. An error does not
// repeat the hash.
func Parse(stored string) (Hash, error) {
	if len(stored) > maxStored {
		return Hash{}, errors.New("longer than the hash of any known scheme")
	}
	text, allowed, err := withoutDovecotName(stored)
	if err != nil {
		return Hash{}, err
	}
	if isLocked(text) {
		return Hash{}, nil
	}
	for _, s := range schemes {
		if !s.wrote(text) {
			continue
		}
		if allowed != "" && !strings.HasPrefix(text, allowed) {
			return Hash{}, errors.New("the {SCHEME} in front is not that of the hash")
		}
		h, err := s.parse(s.name, text)
		h.longest = s.longest
		return h, err
	}
	return Hash{}, ErrUnknown
}

// Locked reports whether no password matches the hash.
func (h Hash) Locked() bool { return h.match == nil }

// Kind names scheme and cost: two hashes of the same kind take the same time to
// compare with.
func (h Hash) Kind() string { return strings.TrimSpace(h.scheme + " " + h.cost) }

// Matches reports whether password is the one that was hashed. It computes the
// hash at once: [Checker.Check] is for serving. An error means that the
// comparison could not be made.
//
// A password that is longer than the scheme accepts (512 octets for the
// schemes of crypt(3), [MaxPassword] for the others) does not match. The answer
// takes as long as for a wrong password of usual length, so that the time of the
// answer does not depend on whether there is such a user.
func (h Hash) Matches(password string) (bool, error) {
	switch {
	case h.Locked():
		return false, nil
	case len(password) > h.longest:
		_, err := h.match(standIn)
		return false, err
	}
	return h.match(password)
}

// standIn is hashed in place of a password that is too long.
const standIn = "correct-horse-16"

// isLocked knows how accounts are locked in shadow(5), on the BSDs and on
// Solaris.
func isLocked(text string) bool {
	return text == "" || text == "x" || text == "NP" || text[0] == '!' || text[0] == '*'
}
