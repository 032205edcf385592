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
//	$apr1$ $1$                      MD5-crypt         {MD5-CRYPT} {MD5} {CRYPT}
//	{PBKDF2}                        PBKDF2 with SHA-1, as Dovecot writes it
//	{SCRAM-SHA-256}                 the keys of RFC 7677, as Dovecot writes them
//	{SSHA} {SSHA256} {SSHA512}      one round of SHA-1 or SHA-2 with a salt
//	{SHA} {SHA256} {SHA512}         one round without a salt
//	{SMD5}                          one round of MD5 with a salt
//	{PLAIN-MD5} {LDAP-MD5} {MD5}    one round of MD5
//	{CRAM-MD5} {HMAC-MD5}           the key of CRAM-MD5: one round of MD5, twice
//	{PLAIN} {CLEAR} {CLEARTEXT}     clear text
//
// Every {SCHEME} may end in .HEX, .B64 or .BASE64, as in Dovecot. Not known are traditional
// DES crypt, $gy$, $7$ (scrypt), {DIGEST-MD5}, {SCRAM-SHA-1}, and anything without a scheme, so
// that a digest in hexadecimal is never compared with its own text. The hash functions are those
// of go-htpasswd, go-crypt, x/crypto and crypto. To add a scheme that one of them knows, write
// its row in the table of schemes and, if it has a name in braces, in that of dovecot.go.
//
// Stored hashes are not trusted: Parse refuses a hash that would take gigabytes or minutes
// to compare. No error of this package repeats any part of a hash or a password, but for the
// name of an unknown scheme.
package hash

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/go-crypt/crypt/algorithm/argon2"
	"github.com/go-crypt/crypt/algorithm/shacrypt"
	"github.com/go-crypt/x/yescrypt"
	"github.com/tg123/go-htpasswd"
)

// maxStored is longer than the hash of any known scheme, in bytes. It bounds passwords in clear
// text, too.
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

// Parse parses a stored hash. An empty hash, "x", "NP", and text that begins with "!" or "*" is a
// locked account and no error, with and without the name of a scheme before it. The error for
// an unknown scheme wraps [ErrUnknown].
func Parse(stored string) (Hash, error) {
	if len(stored) > maxStored {
		return Hash{}, errors.New("longer than the hash of any known scheme; set a new password")
	}
	n, err := withoutDovecotName(stored)
	if err != nil || n.locked {
		return Hash{}, err
	}
	if !strings.HasPrefix(n.text, n.prefix) {
		return Hash{}, errors.New("the {SCHEME} before the hash does not match it; correct it, or set a new password")
	}
	for _, s := range schemes {
		if slices.ContainsFunc(s.prefixes, func(p string) bool { return strings.HasPrefix(n.text, p) }) {
			h, err := s.parse(s.name, n.text)
			h.longest = s.longest
			return h, err
		}
	}
	return Hash{}, unknownScheme(n.text)
}

// Locked reports whether no password matches the hash.
func (h Hash) Locked() bool { return h.match == nil }

// Kind returns scheme and cost: hashes of the same kind take the same time to compare.
func (h Hash) Kind() Kind { return Kind(strings.TrimSpace(h.scheme + " " + h.cost)) }

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

// The bounds on the cost of a comparison: about ten seconds of one processor, and the memory
// of the largest hashes that Dovecot and libsodium make.
const (
	maxBcryptCost   = 16
	maxRounds       = 5_000_000 // of SHA-crypt
	maxMemory       = 1 << 20   // KiB
	maxMemoryPasses = 8 << 20   // KiB times passes, of Argon2
	maxLanes        = 64        // of Argon2

	// Of the hashes that need more, only one is computed at a time.
	largeMemory = 128 << 10 // KiB
)

// MaxPassword is the longest password that any scheme accepts, in octets. It fits into a
// response of every mechanism together with two names of 512 octets: RFC 4954, section 4
// allows 12,288 octets of base64.
const MaxPassword = 4096

// maxCrypt is the longest password of the schemes of crypt(3), in octets
// (CRYPT_MAX_PASSPHRASE_SIZE of libxcrypt). SHA-crypt and MD5-crypt hash the whole password
// in each round: without a bound, 9,000 octets would take seconds.
const maxCrypt = 512

// A scheme is one row of the table of schemes. The text for parse begins with one of the
// prefixes. A password of more than longest octets matches no hash of the scheme, see
// [Hash.Matches].
type scheme struct {
	name     string
	longest  int
	prefixes []string
	sample   string // a hash, with %s for each cost; see [Kind.Sample]
	parse    func(name, text string) (Hash, error)
}

// The parts of samples that are not costs: no password is known that leads to them.
const (
	bcryptSalt = "PosternDecoyPosternDeu"
	bcryptSum  = "9xFqvN0bZyTtWm3kHcRjLsEaUi2oGd6"
	cryptSum   = "PosternDecoyPosternDecoyPosternDecoyPostern" // 43 digits of crypt(3)
	argon2Rest = "$v=19$m=%s,t=%s,p=%s$cG9zdGVybiBkZWNveSBzYQ$YSBwb3N0ZXJuIGRlY295OiBubyBzdWNoIHBhc3N3ZCE"
	md5Rest    = "postern$PosternDecoyPosternDec"

	// 64 bytes, in hexadecimal
	decoySHA512 = "706f737465726e206465636f793a206e6f20737563682070617373776f726420" +
		"706f737465726e206465636f793a206e6f20737563682070617373776f726421"
)

// The name of the scheme whose cost has two digits.
const bcryptName = "bcrypt"

var schemes = []scheme{
	{bcryptName, maxCrypt, []string{"$2a$", "$2b$", "$2x$", "$2y$"},
		"$2a$%s$" + bcryptSalt + bcryptSum, parseBcrypt},
	{"bcrypt-sha256", MaxPassword, []string{"$bcrypt-sha256$"},
		"$bcrypt-sha256$v=2,t=2b,r=%s$" + bcryptSalt + "$" + bcryptSum, parseBcryptSHA256}, // the bound of passlib
	{"sha512-crypt", maxCrypt, []string{"$6$"},
		"$6$rounds=%s$postern$" + cryptSum + cryptSum, parseSHACrypt},
	{"sha256-crypt", maxCrypt, []string{"$5$"},
		"$5$rounds=%s$postern$" + cryptSum, parseSHACrypt},
	{"argon2id", MaxPassword, []string{"$argon2id$"},
		"$argon2id" + argon2Rest, parseArgon2},
	{"argon2i", MaxPassword, []string{"$argon2i$"},
		"$argon2i" + argon2Rest, parseArgon2},
	{"argon2d", MaxPassword, []string{"$argon2d$"},
		"$argon2d" + argon2Rest, parseArgon2},
	{"yescrypt", maxCrypt, []string{"$y$"},
		"$y$%s$......................$" + cryptSum, parseYescrypt},
	{"apr1", maxCrypt, []string{"$apr1$"},
		"$apr1$" + md5Rest, parseMD5Crypt},
	{"md5-crypt", maxCrypt, []string{"$1$"},
		"$1$" + md5Rest, parseMD5Crypt},
	{"pbkdf2", MaxPassword, []string{pbkdf2Name},
		"{PBKDF2}$1$PosternDecoyPost$%s$706f737465726e206465636f793a206e6f207077", parsePBKDF2},
	{"sha", MaxPassword, []string{"{SHA}"},
		"{SHA}cG9zdGVybiBkZWNveTogbm8gcHc=", parseDigest(sha1Sum)},
	{"sha256", MaxPassword, []string{"{SHA256}"},
		"{SHA256}YSBwb3N0ZXJuIGRlY295OiBubyBzdWNoIHBhc3N3ZCE=", parseDigest(sha256Sum)},
	{"sha512", MaxPassword, []string{"{SHA512}"},
		"{SHA512.HEX}" + decoySHA512, parseDigest(sha512Sum)},
	{"md5", MaxPassword, []string{"{MD5}"},
		"{LDAP-MD5}cG9zdGVybjogbm8gcHdkIQ==", parseDigest(md5Sum)},
	{"cram-md5", MaxPassword, []string{"{CRAM-MD5}"},
		"{CRAM-MD5.B64}YSBwb3N0ZXJuIGRlY295OiBubyBzdWNoIHBhc3N3ZCE=", parseDigest(cramMD5)},
	{"ssha", MaxPassword, []string{"{SSHA}"},
		"{SSHA}cG9zdGVybiBkZWNveTogbm8gcHdzYWx0", parseSalted(sha1Sum)},
	{"ssha256", MaxPassword, []string{"{SSHA256}"},
		"{SSHA256}YSBwb3N0ZXJuIGRlY295OiBubyBzdWNoIHBhc3N3ZCFzYWx0", parseSalted(sha256Sum)},
	{"ssha512", MaxPassword, []string{"{SSHA512}"},
		"{SSHA512.HEX}" + decoySHA512 + "73616c74", parseSalted(sha512Sum)},
	{"smd5", MaxPassword, []string{"{SMD5}"},
		"{SMD5}cG9zdGVybjogbm8gcHdkIXNhbHQ=", parseSalted(md5Sum)},
	{"clear", MaxPassword, []string{clearName},
		clearName + "\x00postern decoy", parseClear},
	{"scram-sha-256", MaxPassword, []string{scramName},
		scramName + "%s,cG9zdGVybiBkZWNveTogbg==,YSBwb3N0ZXJuIGRlY295OiBubyBzdWNoIHBhc3N3ZCE=,YSBwb3N0ZXJuIGRlY295OiBubyBzdWNoIHBhc3N3ZCE=", parseScram},
}

// setAnother is the next step at the end of the errors of Parse about a hash that cannot be used.
const setAnother = "; set a new password"

// malformed returns the error for a hash that has the prefix of a scheme, but not its form.
// The errors of the libraries repeat the hash.
func malformed(scheme string) error {
	return fmt.Errorf("malformed %s hash; set a new password", scheme)
}

var bcryptForm = regexp.MustCompile(`^\$2[abxy]\$([0-9]{2})\$[./A-Za-z0-9]{53}$`)

// parseBcrypt parses all variants, which differ by old bugs of C implementations. $2x$ marks
// hashes made with a bug in the treatment of 8-bit characters. The library does not have that
// bug, so ASCII passwords match such hashes and others do not.
//
// Only the first 72 bytes of a password are compared, as by every bcrypt: longer passwords
// were hashed that way. [New] refuses to make such a hash.
func parseBcrypt(name, text string) (Hash, error) {
	form := bcryptForm.FindStringSubmatch(text)
	if form == nil {
		return Hash{}, malformed(name)
	}
	if cost := number(form[1]); cost < 4 || cost > maxBcryptCost {
		return Hash{}, fmt.Errorf("bcrypt cost %d is not between 4 and %d; set a new password", cost, maxBcryptCost)
	}
	h, err := parseWith(htpasswd.AcceptBcrypt)(name, text)
	h.cost = strings.TrimPrefix(form[1], "0")
	return h, err
}

var bcryptSHA256Form = regexp.MustCompile(`^\$bcrypt-sha256\$v=2,t=2b,r=([1-9][0-9]?)\$([./A-Za-z0-9]{22})\$([./A-Za-z0-9]{31})$`)

// parseBcryptSHA256 parses the default hash of passlib, which Mailu uses: bcrypt of a digest
// of the password, so that every byte of a long password counts.
func parseBcryptSHA256(name, text string) (Hash, error) {
	form := bcryptSHA256Form.FindStringSubmatch(text)
	if form == nil {
		return Hash{}, fmt.Errorf("malformed %s hash, or not of version 2; set a new password", name)
	}
	inner, err := parseBcrypt(name, fmt.Sprintf("$2b$%02d$%s%s", number(form[1]), form[2], form[3]))
	if err != nil {
		return Hash{}, err
	}
	salt := []byte(form[2])
	match := func(password string) (bool, error) {
		mac := hmac.New(sha256.New, salt)
		mac.Write([]byte(password))
		return inner.match(base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return Hash{scheme: name, cost: inner.cost, match: match}, nil
}

var shaCryptForm = regexp.MustCompile(`^\$[56]\$(?:rounds=([1-9][0-9]{0,11})\$)?[^$:\s]{0,16}\$([./A-Za-z0-9]+)$`)

func parseSHACrypt(name, text string) (Hash, error) {
	length := 86
	if name == "sha256-crypt" {
		length = 43
	}
	form := shaCryptForm.FindStringSubmatch(text)
	if form == nil || len(form[2]) != length {
		return Hash{}, malformed(name)
	}
	if form[1] == "" {
		form[1] = strconv.Itoa(shacrypt.IterationsDefaultOmitted)
	}
	// crypt(3) never writes fewer than 1000.
	if rounds := number(form[1]); rounds < shacrypt.IterationsMin || rounds > maxRounds {
		return Hash{}, fmt.Errorf("%s with %d rounds is not between %d and %d; set a new password", name, rounds, shacrypt.IterationsMin, maxRounds)
	}
	digest, err := shacrypt.Decode(text)
	if err != nil {
		return Hash{}, malformed(name)
	}
	return Hash{scheme: name, cost: form[1], match: digest.MatchAdvanced}, nil
}

var argon2Form = regexp.MustCompile(`^\$argon2(?:id|i|d)\$v=19\$m=([1-9][0-9]{0,11}),t=([1-9][0-9]{0,11}),p=([1-9][0-9]{0,11})\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]{16,}$`)

func parseArgon2(name, text string) (Hash, error) {
	form := argon2Form.FindStringSubmatch(text)
	if form == nil {
		return Hash{}, fmt.Errorf("malformed %s hash, or not of version 19; set a new password", name)
	}
	memory, passes, lanes := number(form[1]), number(form[2]), number(form[3])
	switch {
	case memory > maxMemory:
		return Hash{}, fmt.Errorf("%s with %d KiB of memory is above the limit of %d KiB; set a new password", name, memory, maxMemory)
	case memory*passes > maxMemoryPasses:
		return Hash{}, fmt.Errorf("%s with %d passes over %d KiB would take too long; set a new password", name, passes, memory)
	case lanes > maxLanes || memory < 8*lanes: // RFC 9106, section 3.1
		return Hash{}, fmt.Errorf("%s with %d lanes is above the limit of %d, or its memory too small for them; set a new password", name, lanes, maxLanes)
	}
	digest, err := argon2.Decode(text)
	if err != nil {
		return Hash{}, malformed(name)
	}
	cost := form[1] + "," + form[2] + "," + form[3]
	return Hash{scheme: name, cost: cost, large: memory > largeMemory, match: digest.MatchAdvanced}, nil
}

var yescryptForm = regexp.MustCompile(`^\$y\$(j[./A-Za-z0-9]{2})\$([./A-Za-z0-9]{0,86})\$[./A-Za-z0-9]{43}$`)

func parseYescrypt(name, text string) (Hash, error) {
	form := yescryptForm.FindStringSubmatch(text)
	if form == nil || yescrypt.Decode64([]byte(form[2])) == nil {
		return Hash{}, errors.New("malformed yescrypt hash, or with settings that crypt(3) does not make; set a new password")
	}
	_, log2N, r, err := yescrypt.DecodeSetting([]byte(form[1]))
	if err != nil || log2N < 10 || log2N > 18 || r > 32 { // what the library computes: 1 GiB at most
		return Hash{}, errors.New("yescrypt with a cost outside of what crypt(3) makes; set a new password")
	}
	memory := r << log2N / 8 // 128 bytes each, in KiB
	match := func(password string) (bool, error) {
		computed, err := yescrypt.Hash([]byte(password), []byte(text))
		if err != nil {
			return false, errors.New("hash: yescrypt failed")
		}
		return subtle.ConstantTimeCompare(computed, []byte(text)) == 1, nil
	}
	return Hash{scheme: name, cost: form[1], large: memory > largeMemory, match: match}, nil
}

var md5CryptForm = regexp.MustCompile(`^\$(?:apr1|1)\$[^$:\s]{0,8}\$[./A-Za-z0-9]{22}$`)

func parseMD5Crypt(name, text string) (Hash, error) {
	if !md5CryptForm.MatchString(text) {
		return Hash{}, malformed(name)
	}
	return parseWith(htpasswd.AcceptMd5)(name, text)
}

// parseWith leaves the reading to go-htpasswd. Its comparisons take constant
// time.
func parseWith(accept htpasswd.PasswdParser) func(name, text string) (Hash, error) {
	return func(name, text string) (Hash, error) {
		encoded, err := accept(text)
		if err != nil || encoded == nil {
			return Hash{}, malformed(name)
		}
		match := func(password string) (bool, error) { return encoded.MatchesPassword(password), nil }
		return Hash{scheme: name, match: match}, nil
	}
}

// number converts what a form has found to be at most twelve digits.
func number(digits string) int64 {
	n, _ := strconv.ParseInt(digits, 10, 64)
	return n
}
