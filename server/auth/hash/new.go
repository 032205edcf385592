package hash

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-crypt/crypt/algorithm"
	"github.com/go-crypt/crypt/algorithm/argon2"
	"github.com/go-crypt/crypt/algorithm/shacrypt"
	"golang.org/x/crypto/bcrypt"
)

// The costs of the hashes that New makes: each takes some tens of milliseconds. A mail client
// sends its password with every message, and Argon2 needs its memory once per processor;
// hence OWASP's smallest recommendation.
const (
	bcryptCost   = 10
	shaRounds    = 100_000
	argon2Memory = 19456 // KiB
	argon2Passes = 2
	argon2Lanes  = 1
)

// A maker makes hashes of one scheme. The password has at most longest octets.
type maker struct {
	scheme  string
	longest int
	make    func(password string) (string, error)
}

// The first maker is the default. bcrypt compares only the first 72 octets of a password,
// so longer ones are not hashed with it.
var makers = []maker{
	{"bcrypt", 72, newBcrypt},
	{"sha512-crypt", maxCrypt, newSHA512Crypt},
	{"argon2id", MaxPassword, newArgon2id},
	{"scram-sha-256", MaxPassword, newScram},
}

// Schemes returns the names of the schemes that New makes; the first is the default.
func Schemes() []string {
	var names []string
	for _, m := range makers {
		names = append(names, m.scheme)
	}
	return names
}

// New hashes a password, which the caller has prepared with PRECIS; for "scram-sha-256", New
// adds SASLprep. A password with which no login is possible is an error: an empty one, one
// with a NUL, one that is too long for the scheme.
func New(scheme, password string) (string, error) {
	if password == "" {
		return "", errors.New("the password is empty, which no mechanism accepts; choose another one")
	}
	// PLAIN (RFC 4616) separates its fields with NUL.
	if strings.ContainsRune(password, 0) {
		return "", errors.New("the password contains a NUL byte, which PLAIN cannot send; choose another one")
	}
	i := slices.IndexFunc(makers, func(m maker) bool { return m.scheme == scheme })
	if i < 0 {
		return "", fmt.Errorf("unknown password scheme %q; the known ones are %s", scheme, strings.Join(Schemes(), ", "))
	}
	if len(password) > makers[i].longest {
		return "", tooLong(makers[i], len(password))
	}
	return makers[i].make(password)
}

// tooLong returns an error with the schemes that accept a password of that many octets.
func tooLong(m maker, octets int) error {
	var others []string
	for _, other := range makers {
		if octets <= other.longest {
			others = append(others, other.scheme)
		}
	}
	advice := "choose a shorter password"
	if len(others) > 0 {
		advice += ", or one of the schemes " + strings.Join(others, ", ")
	}
	return fmt.Errorf("the password has %d octets, and %s accepts at most %d; %s", octets, m.scheme, m.longest, advice)
}

func newBcrypt(password string) (string, error) {
	stored, err := bcrypt.GenerateFromPassword([]byte(password), bcryptCost)
	return string(stored), err
}

func newSHA512Crypt(password string) (string, error) {
	hasher, err := shacrypt.New(shacrypt.WithSHA512(), shacrypt.WithIterations(shaRounds))
	if err != nil {
		return "", err
	}
	return encoded(hasher.Hash(password))
}

func newArgon2id(password string) (string, error) {
	hasher, err := argon2.New(argon2.WithVariantID(), argon2.WithM(argon2Memory), argon2.WithT(argon2Passes), argon2.WithP(argon2Lanes))
	if err != nil {
		return "", err
	}
	return encoded(hasher.Hash(password))
}

func encoded(digest algorithm.Digest, err error) (string, error) {
	if err != nil {
		return "", err
	}
	return digest.Encode(), nil
}
