package hash

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-crypt/crypt/algorithm/argon2"
	"github.com/go-crypt/crypt/algorithm/shacrypt"
	"golang.org/x/crypto/bcrypt"
)

// What the hashes that New makes cost: each some tens of milliseconds. A mail
// client sends its password with every message, and the memory of Argon2 is
// needed once per processor (OWASP's smallest recommendation for that reason).
const (
	bcryptCost   = 10
	shaRounds    = 100_000
	argon2Memory = 19456 // KiB
	argon2Passes = 2
	argon2Lanes  = 1
)

type maker struct {
	scheme string
	make   func(password string) (string, error)
}

// The first is the default.
var makers = []maker{
	{"bcrypt", newBcrypt},
	{"sha512-crypt", newSHA512Crypt},
	{"argon2id", newArgon2id},
	{"scram-sha-256", newScram},
}

// Schemes names the schemes that New makes; the first is the default.
func Schemes() []string {
	var names []string
	for _, m := range makers {
		names = append(names, m.scheme)
	}
	return names
}

// New hashes a password. The caller has brought it into its prepared form; for
// "scram-sha-256" SASLprep follows.
func New(scheme, password string) (string, error) {
	if password == "" {
		return "", errors.New("an empty password lets nobody in")
	}
	// PLAIN (RFC 4616) separates its fields by NUL.
	if strings.ContainsRune(password, 0) {
		return "", errors.New("a password cannot hold a NUL byte")
	}
	i := slices.IndexFunc(makers, func(m maker) bool { return m.scheme == scheme })
	if i < 0 {
		return "", fmt.Errorf("unknown password scheme %q; known are %s", scheme, strings.Join(Schemes(), ", "))
	}
	return makers[i].make(password)
}

func newBcrypt(password string) (string, error) {
	stored, err := bcrypt.GenerateFromPassword([]byte(password), bcryptCost)
	if errors.Is(err, bcrypt.ErrPasswordTooLong) {
		return "", errors.New("bcrypt sees the first 72 bytes of a password only and this one is longer; take the scheme sha512-crypt or argon2id")
	}
	return string(stored), err
}

func newSHA512Crypt(password string) (string, error) {
	hasher, err := shacrypt.New(shacrypt.WithSHA512(), shacrypt.WithIterations(shaRounds))
	if err != nil {
		return "", err
	}
	digest, err := hasher.Hash(password)
	if err != nil {
		return "", err
	}
	return digest.Encode(), nil
}

func newArgon2id(password string) (string, error) {
	hasher, err := argon2.New(argon2.WithVariantID(), argon2.WithM(argon2Memory), argon2.WithT(argon2Passes), argon2.WithP(argon2Lanes))
	if err != nil {
		return "", err
	}
	digest, err := hasher.Hash(password)
	if err != nil {
		return "", err
	}
	return digest.Encode(), nil
}
