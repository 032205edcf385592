// Package hash compares passwords with stored password hashes, for the stores that keep
// such hashes.
//
// [Parse] parses a stored hash, [New] makes one, and a [Checker] compares: it bounds how
// many hashes are computed at once, and remembers the passwords that have matched, so that a
// client that logs in repeatedly costs one hash.
//
// Known schemes, in the spelling of crypt(3), of Apache's htpasswd and, if Dovecot puts a
// {SCHEME} before it, with that:
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
// Not known are traditional DES crypt, $gy$, $7$ (scrypt), PBKDF2, SSHA-256 and above,
// hexadecimal encodings, and clear text. The hash functions are those of go-htpasswd,
// go-crypt, x/crypto and crypto. To add a scheme that one of them knows, write its row in
// schemes.go.
//
// Stored hashes are not trusted: Parse refuses a hash that would take gigabytes or minutes
// to compare. No error of this package repeats any part of a hash or a password.
package hash

import (
	"errors"
	"slices"
	"strings"
)

// ErrUnknown is returned by Parse for text of no known scheme.
var ErrUnknown = errors.New("unknown password scheme; set a new password, or see the documentation for the known schemes")

// maxStored is longer than the hash of any known scheme, in bytes.
const maxStored = 512

// A Hash is a parsed password hash. The zero Hash is locked: no password matches it. It may
// be used by several goroutines at once.
type Hash struct {
	scheme string
	cost   string // two hashes of one scheme and one cost take the same time
	large  bool   // needs so much memory that only one is computed at a time
	scram  *ScramKeys
	match  func(password string) (bool, error)

	longest int // octets of a password
}

// Parse parses a stored hash. An empty hash, "x", and text that begins with "!" or "*" is a
// locked account and no error.
func Parse(stored string) (Hash, error) {
	if len(stored) > maxStored {
		return Hash{}, errors.New("longer than the hash of any known scheme")
	}
	text, allowed, err := withoutDovecotName(stored)
	if err != nil {
		return Hash{}, err
	}
	// How accounts are locked in shadow(5), on the BSDs and on Solaris.
	if text == "" || text == "x" || text == "NP" || text[0] == '!' || text[0] == '*' {
		return Hash{}, nil
	}
	for _, s := range schemes {
		if !slices.ContainsFunc(s.prefixes, func(p string) bool { return strings.HasPrefix(text, p) }) {
			continue
		}
		if allowed != "" && !strings.HasPrefix(text, allowed) {
			return Hash{}, errors.New("the {SCHEME} before the hash does not match it; correct it, or set a new password")
		}
		h, err := s.parse(s.name, text)
		h.longest = s.longest
		return h, err
	}
	return Hash{}, ErrUnknown
}

// Locked reports whether no password matches the hash.
func (h Hash) Locked() bool { return h.match == nil }

// Kind returns scheme and cost: hashes of the same kind take the same time to compare.
func (h Hash) Kind() string { return strings.TrimSpace(h.scheme + " " + h.cost) }

// Matches reports whether password is the one that was hashed. It does not wait for other
// hashes, as [Checker.Check] does, which is for serving. An error means that the comparison
// could not be made.
//
// A password that is longer than the scheme accepts (512 octets for the schemes of crypt(3),
// [MaxPassword] for the others) does not match. The answer takes as long as for a wrong
// password of usual length, so that its time does not depend on whether there is such a
// user.
func (h Hash) Matches(password string) (bool, error) {
	switch {
	case h.Locked():
		return false, nil
	case len(password) > h.longest:
		_, err := h.match(substitute)
		return false, err
	}
	return h.match(password)
}

// substitute is hashed instead of a password that is too long.
const substitute = "correct-horse-16"
