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

// A maker makes hashes of one scheme, of passwords of up to longest octets.
type maker struct {
	scheme  string
	longest int
	make    func(password string) (string, error)
}

// The first is the default. bcrypt compares the first 72 octets of a password
// only, so a longer one is not hashed with it.
var makers = []maker{
	{"bcrypt", 72, newBcrypt},
	{"sha512-crypt", maxCrypt, newSHA512Crypt},
	{"argon2id", MaxPassword, newArgon2id},
	{"scram-sha-256", MaxPassword, newScram},
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
// "scram-sha-256" SASLprep follows. A password that could never be used to log in
// is an error: an empty one, one with a NUL, one that is too long for the scheme.
func New(scheme, password string) (string, error) {
	if password == "" {
		return "", errors.New("the password is empty, and no mechanism accepts an empty password")
	}
	// PLAIN (RFC 4616) separates its fields by NUL.
	if strings.ContainsRune(password, 0) {
		return "", errors.New("a password cannot hold a NUL byte")
	}
	i := slices.IndexFunc(makers, func(m maker) bool { return m.scheme == scheme })
	if i < 0 {
		return "", fmt.Errorf("unknown password scheme %q; known are %s", scheme, strings.Join(Schemes(), ", "))
	}
	if len(password) > makers[i].longest {
		return "", tooLong(makers[i], len(password))
	}
	return makers[i].make(password)
}

// tooLong names the schemes that accept a password of that many octets.
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
