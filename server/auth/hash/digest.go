package hash

import (
	"crypto/md5"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// The schemes of this file are known because user databases have them. All but PBKDF2 are
// weak: who gets hold of the database knows most of the passwords soon. See [Hash.Weakness].

// maxDigestSalt bounds the salt of a digest, in bytes. Dovecot's has 4 or 8.
const maxDigestSalt = 64

// parseDigest returns the parser of a digest of the password, without a salt. The text is the
// name in braces and the bytes of the digest.
func parseDigest(sum func([]byte) []byte) func(name, text string) (Hash, error) {
	size := len(sum(nil))
	return func(name, text string) (Hash, error) {
		_, digest, _ := strings.Cut(text, "}")
		if len(digest) != size {
			return Hash{}, malformed(name)
		}
		return digestHash(name, sum, digest, ""), nil
	}
}

// parseSalted returns the parser of a digest of the password and a salt, which follows the
// digest (RFC 2307bis calls it SSHA).
func parseSalted(sum func([]byte) []byte) func(name, text string) (Hash, error) {
	size := len(sum(nil))
	return func(name, text string) (Hash, error) {
		_, data, _ := strings.Cut(text, "}")
		if len(data) <= size || len(data) > size+maxDigestSalt {
			return Hash{}, malformed(name)
		}
		return digestHash(name, sum, data[:size], data[size:]), nil
	}
}

func digestHash(name string, sum func([]byte) []byte, digest, salt string) Hash {
	match := func(password string) (bool, error) {
		return subtle.ConstantTimeCompare(sum([]byte(password+salt)), []byte(digest)) == 1, nil
	}
	return Hash{scheme: name, match: match}
}

func md5Sum(b []byte) []byte    { s := md5.Sum(b); return s[:] }
func sha1Sum(b []byte) []byte   { s := sha1.Sum(b); return s[:] }
func sha256Sum(b []byte) []byte { s := sha256.Sum256(b); return s[:] }
func sha512Sum(b []byte) []byte { s := sha512.Sum512(b); return s[:] }

// cramMD5 returns what Dovecot stores for the mechanism CRAM-MD5 (RFC 2195): the states of MD5
// after the outer and the inner key block of HMAC-MD5 (RFC 2104), in little-endian order.
func cramMD5(password []byte) []byte {
	key := password
	if len(key) > md5.BlockSize {
		key = md5Sum(key)
	}
	var states []byte
	for _, pad := range []byte{0x5c, 0x36} {
		block := make([]byte, md5.BlockSize)
		copy(block, key)
		for i := range block {
			block[i] ^= pad
		}
		states = append(states, md5State(block)...)
	}
	return states
}

// md5State returns the state of MD5 after one block. In the form in which crypto/md5 saves it, it
// follows four octets that name the function, in big-endian order.
func md5State(block []byte) (state []byte) {
	h := md5.New()
	h.Write(block)
	saved, err := h.(encoding.BinaryAppender).AppendBinary(nil)
	if err != nil || len(saved) < 4+md5.Size {
		panic("hash: the state of crypto/md5 has another form")
	}
	for word := range slices.Chunk(saved[4:4+md5.Size], 4) {
		state = binary.LittleEndian.AppendUint32(state, binary.BigEndian.Uint32(word))
	}
	return state
}

// clearName is what stands before a password in clear text, in the table of schemes.
const clearName = "{CLEAR}"

// parseClear parses a password that is stored as it is. What is compared are digests of equal
// length, so that the time does not depend on the password. No mechanism can send a NUL.
func parseClear(name, text string) (Hash, error) {
	text = strings.TrimPrefix(text, clearName)
	stored, possible := sha256.Sum256([]byte(text)), text != "" && strings.IndexByte(text, 0) < 0
	match := func(password string) (bool, error) {
		sent := sha256.Sum256([]byte(password))
		return subtle.ConstantTimeCompare(sent[:], stored[:]) == 1 && possible, nil
	}
	return Hash{scheme: name, match: match}, nil
}

// pbkdf2Name is what Dovecot puts before a hash of its own form of PBKDF2.
const pbkdf2Name = "{PBKDF2}"

// maxPBKDF2 bounds the iterations. With SHA-1 so many take about two seconds.
const maxPBKDF2 = 5_000_000

var pbkdf2Form = regexp.MustCompile(`^\{PBKDF2\}\$1\$([^$]{1,64})\$([1-9][0-9]{0,11})\$([0-9a-fA-F]{40})$`)

// parsePBKDF2 parses Dovecot's form: PBKDF2 (RFC 8018, section 5.2) with HMAC-SHA-1 of 20
// bytes. The salt is text.
func parsePBKDF2(name, text string) (Hash, error) {
	form := pbkdf2Form.FindStringSubmatch(text)
	if form == nil {
		return Hash{}, malformed(name)
	}
	iterations := number(form[2])
	if iterations > maxPBKDF2 {
		return Hash{}, fmt.Errorf("%s with %d iterations is above the limit of %d; set a new password", name, iterations, maxPBKDF2)
	}
	key, err := hex.DecodeString(form[3])
	if err != nil {
		return Hash{}, malformed(name)
	}
	salt := []byte(form[1])
	match := func(password string) (bool, error) {
		computed, err := pbkdf2.Key(sha1.New, password, salt, int(iterations), len(key))
		if err != nil {
			return false, errors.New("hash: pbkdf2 failed")
		}
		return subtle.ConstantTimeCompare(computed, key) == 1, nil
	}
	return Hash{scheme: name, cost: form[2], match: match}, nil
}

// Weakness says why a scheme does not protect passwords from those who get hold of the
// hashes. It is empty for all others.
func (h Hash) Weakness() string {
	switch h.scheme {
	case "clear":
		return "clear text"
	case "md5", "cram-md5", "sha", "sha256", "sha512":
		return h.scheme + " without a salt"
	case "smd5", "ssha", "ssha256", "ssha512":
		return h.scheme + ", one round"
	case "apr1", "md5-crypt":
		return h.scheme
	case "pbkdf2":
		if len(h.cost) < 4 {
			return "pbkdf2 with less than 1000 iterations"
		}
	}
	return ""
}
