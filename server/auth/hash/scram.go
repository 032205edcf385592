package hash

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strconv"

	"github.com/xdg-go/stringprep"
)

// scramName is what Dovecot puts before the keys of SCRAM-SHA-256.
const scramName = "{SCRAM-SHA-256}"

// CyrusMaxIterations is the highest iteration count that the client of Cyrus SASL accepts
// for SCRAM (MAX_ITERATION_COUNTER in its plugins/scram.c). Above it, every client that uses
// Cyrus SASL fails before it sends a proof, with "iteration-count is too big, refusing to
// compute". Postfix as a client uses Cyrus SASL, and so do mail clients that are built with
// it, such as mutt.
const CyrusMaxIterations = 65_536

// The shape of the keys that New makes. With SCRAM the client computes the iterations,
// perhaps on a phone; with PLAIN the server does.
const (
	scramIterations = CyrusMaxIterations
	scramSalt       = 16 // bytes
)

// The bounds on keys that another program has made.
const (
	minIterations = 4096      // RFC 7677, section 4
	maxIterations = 5_000_000 // a second or two
	minSalt       = 8         // bytes
	maxSalt       = 64        // bytes
)

// ScramKeys are the keys with which SCRAM-SHA-256 (RFC 5802, section 3; RFC 7677) checks the
// proof of a client that knows the password.
type ScramKeys struct {
	Salt       []byte
	Iterations int
	StoredKey  []byte
	ServerKey  []byte
}

// Shape returns the part of the keys that a client gets before it has proved anything.
func (k ScramKeys) Shape() ScramShape {
	return ScramShape{Iterations: k.Iterations, SaltLength: len(k.Salt)}
}

// A ScramShape is the part of ScramKeys that is not secret, and equal for many users.
type ScramShape struct {
	Iterations int
	SaltLength int // bytes
}

// DefaultScramShape returns the shape of the keys that New makes.
func DefaultScramShape() ScramShape {
	return ScramShape{Iterations: scramIterations, SaltLength: scramSalt}
}

// ScramKeys returns the keys, if the hash consists of keys. The caller must not change them.
func (h Hash) ScramKeys() (keys ScramKeys, ok bool) {
	if h.scram == nil {
		return ScramKeys{}, false
	}
	return *h.scram, true
}

var scramForm = regexp.MustCompile(`^\{SCRAM-SHA-256\}([1-9][0-9]{0,11}),([A-Za-z0-9+/]+={0,2}),([A-Za-z0-9+/]{43}=),([A-Za-z0-9+/]{43}=)$`)

// parseScram parses Dovecot's form: iterations, salt, StoredKey and ServerKey.
func parseScram(name, text string) (Hash, error) {
	form := scramForm.FindStringSubmatch(text)
	if form == nil {
		return Hash{}, malformed(name)
	}
	iterations := number(form[1])
	if iterations < minIterations || iterations > maxIterations {
		return Hash{}, fmt.Errorf("%s with %d iterations is not between %d and %d; set a new password", name, iterations, minIterations, maxIterations)
	}
	var decoded [3][]byte
	for i, field := range form[2:] {
		var err error
		if decoded[i], err = base64.StdEncoding.Strict().DecodeString(field); err != nil {
			return Hash{}, malformed(name)
		}
	}
	keys := &ScramKeys{Salt: decoded[0], Iterations: int(iterations), StoredKey: decoded[1], ServerKey: decoded[2]}
	if len(keys.Salt) < minSalt || len(keys.Salt) > maxSalt {
		return Hash{}, fmt.Errorf("%s with a salt of %d bytes is not between %d and %d; set a new password", name, len(keys.Salt), minSalt, maxSalt)
	}
	return Hash{scheme: name, cost: form[1], scram: keys, match: keys.match}, nil
}

// match compares a password, for PLAIN and LOGIN. It compares both keys: no password matches
// a line that is composed of two others.
func (k *ScramKeys) match(password string) (bool, error) {
	password = saslPrepared(password)
	if password == "" {
		return false, nil
	}
	stored, server, err := deriveScram(password, k.Salt, k.Iterations)
	if err != nil {
		return false, errors.New("hash: scram-sha-256 failed")
	}
	return subtle.ConstantTimeCompare(stored, k.StoredKey)&subtle.ConstantTimeCompare(server, k.ServerKey) == 1, nil
}

// deriveScram computes the keys of RFC 5802, section 3:
//
//	SaltedPassword  := Hi(Normalize(password), salt, i)
//	ClientKey       := HMAC(SaltedPassword, "Client Key")
//	StoredKey       := H(ClientKey)
//	ServerKey       := HMAC(SaltedPassword, "Server Key")
func deriveScram(prepared string, salt []byte, iterations int) (stored, server []byte, err error) {
	salted, err := pbkdf2.Key(sha256.New, prepared, salt, iterations, sha256.Size)
	if err != nil {
		return nil, nil, err
	}
	client := sha256.Sum256(hmacSHA256(salted, "Client Key"))
	return client[:], hmacSHA256(salted, "Server Key"), nil
}

func hmacSHA256(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// saslPrepared is Normalize of RFC 5802, section 5.1: SASLprep (RFC 4013), as clients of SCRAM
// use it. A password that SASLprep forbids is not changed, as in most clients.
func saslPrepared(password string) string {
	prepared, err := stringprep.SASLprep.Prepare(password)
	if err != nil {
		return password
	}
	return prepared
}

func newScram(password string) (string, error) {
	password = saslPrepared(password)
	if password == "" {
		return "", errors.New("the password is empty after SASLprep (RFC 4013); choose one with letters or digits")
	}
	salt := make([]byte, scramSalt)
	rand.Read(salt) // never fails: crypto/rand ends the process instead
	stored, server, err := deriveScram(password, salt, scramIterations)
	if err != nil {
		return "", err
	}
	text := scramName + strconv.Itoa(scramIterations)
	for _, field := range [][]byte{salt, stored, server} {
		text += "," + base64.StdEncoding.EncodeToString(field)
	}
	return text, nil
}
