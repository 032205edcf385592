package hash

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Dovecot, OpenLDAP and what is built on them put the name of the scheme in braces before the
// hash, and Dovecot may add the encoding of the rest:
//
//	{SCHEME}data  {SCHEME.HEX}data  {SCHEME.B64}data
//
// Names are in any case. Sources: Dovecot's password-scheme.c, and RFC 2307, section 5.3.

// A coding is how the bytes of a hash are written.
type coding uint8

const (
	asText coding = iota // as they are
	asBase64
	asHex
)

// A dovecotScheme is what one name in braces means.
type dovecotScheme struct {
	names  []string
	coding coding // of the data without a suffix
	digest int    // bytes of a digest without a salt, which may be hexadecimal without .HEX, too; otherwise 0
	scheme string // for schemes with their own names: the prefix for the table of schemes
	prefix string // for schemes of crypt(3): what the data begins with
}

var dovecotSchemes = []dovecotScheme{
	{names: []string{"BLF-CRYPT"}, prefix: "$2"},
	{names: []string{"SHA256-CRYPT"}, prefix: "$5$"},
	{names: []string{"SHA512-CRYPT"}, prefix: "$6$"},
	{names: []string{"ARGON2ID"}, prefix: "$argon2id$"},
	{names: []string{"ARGON2I"}, prefix: "$argon2i$"},
	{names: []string{"MD5-CRYPT"}, prefix: "$1$"},
	{names: []string{"CRYPT"}, prefix: "$"},
	{names: []string{"SCRAM-SHA-256"}, scheme: scramName},
	{names: []string{"PBKDF2"}, scheme: pbkdf2Name},
	{names: []string{"PLAIN", "CLEAR", "CLEARTEXT"}, scheme: clearName},
	{names: []string{"SHA", "SHA1"}, scheme: "{SHA}", coding: asBase64, digest: 20},
	{names: []string{"SHA256"}, scheme: "{SHA256}", coding: asBase64, digest: 32},
	{names: []string{"SHA512"}, scheme: "{SHA512}", coding: asBase64, digest: 64},
	{names: []string{"LDAP-MD5"}, scheme: "{MD5}", coding: asBase64, digest: 16},
	{names: []string{"PLAIN-MD5"}, scheme: "{MD5}", coding: asHex, digest: 16},
	{names: []string{"CRAM-MD5", "HMAC-MD5"}, scheme: "{CRAM-MD5}", coding: asHex, digest: 32},
	{names: []string{"SSHA"}, scheme: "{SSHA}", coding: asBase64},
	{names: []string{"SSHA256"}, scheme: "{SSHA256}", coding: asBase64},
	{names: []string{"SSHA512"}, scheme: "{SSHA512}", coding: asBase64},
	{names: []string{"SMD5"}, scheme: "{SMD5}", coding: asBase64},
}

// A named is a stored hash after its {SCHEME} has been taken off. The text is one for the
// table of schemes, where digests are bytes and not base64.
type named struct {
	text   string
	prefix string // what the text has to begin with; empty if nothing was named
	clear  bool   // the text is a password
	locked bool   // there is no hash after the name
}

// withoutDovecotName takes off the {SCHEME}, and decodes the rest.
func withoutDovecotName(stored string) (named, error) {
	name, rest, ok := strings.Cut(stored, "}")
	if !ok || !strings.HasPrefix(name, "{") {
		return named{text: stored, locked: isLocked(stored)}, nil
	}
	name, suffix, _ := strings.Cut(strings.ToUpper(name[1:]), ".")
	d, ok := schemeByName(name, suffix != "" || strings.HasPrefix(rest, "$"))
	how := d.codingOf(rest)
	switch suffix {
	case "":
	case "HEX":
		how = asHex
	case "B64", "BASE64":
		how = asBase64
	default:
		ok = false
	}
	n := named{prefix: d.scheme + d.prefix, clear: d.scheme == clearName}
	switch {
	case !ok:
		return named{}, unknownScheme(stored)
	case rest == "" || !n.clear && isLocked(rest):
		n.locked = true
		return n, nil
	}
	data, err := how.decode(rest)
	if err != nil {
		return named{}, fmt.Errorf("malformed %s hash: %w; set a new password", d.names[0], err)
	}
	n.text = d.scheme + data
	switch {
	case data == "":
		n.locked = true
	case n.prefix == "$" && !strings.ContainsRune("${", rune(data[0])):
		return named{}, &unknownError{name: "{CRYPT} with traditional DES crypt"}
	}
	return n, nil
}

// schemeByName returns the row of a name. Dovecot writes {MD5} before MD5-crypt, which may be
// encoded, and others write it before a digest.
func schemeByName(name string, crypt bool) (dovecotScheme, bool) {
	switch {
	case name == "MD5" && crypt:
		name = "MD5-CRYPT"
	case name == "MD5":
		name = "LDAP-MD5"
	}
	i := slices.IndexFunc(dovecotSchemes, func(d dovecotScheme) bool { return slices.Contains(d.names, name) })
	if i < 0 {
		return dovecotScheme{}, false
	}
	return dovecotSchemes[i], true
}

// codingOf returns the encoding of data without a suffix. The length of a digest without a
// salt shows which one it is.
func (d dovecotScheme) codingOf(data string) coding {
	switch len(data) {
	case 0:
	case hex.EncodedLen(d.digest):
		return asHex
	case base64.StdEncoding.EncodedLen(d.digest):
		return asBase64
	}
	return d.coding
}

// decode returns the bytes. The errors of the packages say where in the hash the mistake is,
// and one of them repeats an octet.
func (c coding) decode(data string) (string, error) {
	switch c {
	case asHex:
		if decoded, err := hex.DecodeString(data); err == nil {
			return string(decoded), nil
		}
		return "", errors.New("it is not hexadecimal")
	case asBase64:
		if decoded, err := base64.StdEncoding.Strict().DecodeString(data); err == nil {
			return string(decoded), nil
		}
		return "", errors.New("it is not base64")
	}
	return data, nil
}

// isLocked reports whether text is how accounts are locked in shadow(5), on the BSDs and on
// Solaris. usermod -L and others put the mark before a hash.
func isLocked(text string) bool {
	return text == "" || text == "x" || text == "NP" || text[0] == '!' || text[0] == '*'
}

// Trim returns stored without blanks at its ends, as a database adds them to a column of the
// type CHAR. Blanks that belong to a password in clear text are kept.
func Trim(stored string) string {
	const blanks = " \t\r\n"
	left := strings.TrimLeft(stored, blanks)
	name, _, ok := strings.Cut(left, "}")
	if ok && strings.HasPrefix(name, "{") {
		if d, ok := schemeByName(strings.ToUpper(name[1:]), false); ok && d.scheme == clearName {
			return left
		}
	}
	return strings.TrimRight(left, blanks)
}

// ErrUnknown is returned by Parse, wrapped, for text of no known scheme.
var ErrUnknown = errors.New("unknown password scheme")

// An unknownError is ErrUnknown with the name of the scheme, or with what has happened to the hash
// and the next step.
type unknownError struct{ name, spoilt string }

func (e *unknownError) Unwrap() error { return ErrUnknown }

func (e *unknownError) Error() string {
	switch {
	case e.spoilt != "":
		return "unknown password scheme: " + e.spoilt
	case e.name == "":
		return "unknown password scheme: neither a known $id$ nor a {SCHEME} before the hash; " +
			"set a new password, or put the scheme before it, such as {PLAIN} before clear text"
	}
	return "unknown password scheme " + e.name + "; set a new password"
}

// schemeName matches names that are safe to repeat: what an administrator wrote in clear text
// without a scheme is hardly ever of this form. Lower case is named only if it is known.
var schemeName = regexp.MustCompile(`^\{[A-Z0-9][A-Z0-9_-]{0,31}(?:\.[A-Z0-9]{1,8})?\}`)

// foreignSchemes are what other programs write before hashes that are not known here.
var foreignSchemes = []string{
	"$gy$", "$7$", "$sm3$", "$sha1$", "$md5$", "$md5,", "$3$", "$2$", "$P$", "$H$", "$S$", "$8$", "$9$",
	"$scrypt$", "$pbkdf2$", "$pbkdf2-sha1$", "$pbkdf2-sha256$", "$pbkdf2-sha512$", "$argon2$", "$fshp", "pbkdf2_sha256$", "pbkdf2:",
}

// unknownScheme returns the error for a stored hash of no known scheme.
func unknownScheme(stored string) error {
	if name, _, ok := strings.Cut(stored, "}"); ok && strings.HasPrefix(name, "{") {
		if name = schemeName.FindString(strings.ToUpper(name) + "}"); name == "" || !strings.HasPrefix(stored, name) && !isForeign(name) {
			name = "in braces before the hash"
		}
		return &unknownError{name: name}
	}
	for _, prefix := range foreignSchemes {
		if strings.HasPrefix(stored, prefix) {
			return &unknownError{name: prefix}
		}
	}
	return &unknownError{spoilt: spoilt(stored)}
}

// spoilt returns what another program has done to a hash of a known scheme, with the next step, or
// "". The advice for clear text would be wrong for these.
func spoilt(stored string) string {
	switch {
	case strings.HasPrefix(stored, "$$"):
		return "the dollars of the hash are doubled, as compose files need them; write each of them once"
	case strings.HasPrefix(stored, `\$`), strings.HasPrefix(stored, `\{`):
		return "the hash has backslashes before its dollars or braces, as a shell needs them; remove the backslashes"
	case strings.HasPrefix(stored, `"`), strings.HasPrefix(stored, "'"):
		return "the hash begins with a quotation mark; remove the marks around it"
	}
	decoded, err := base64.StdEncoding.DecodeString(strings.TrimLeft(stored, ": \t"))
	if err == nil && schemeName.MatchString(strings.ToUpper(string(decoded))) {
		return "the whole value is in base64, as LDIF has it after two colons; decode it with base64 -d"
	}
	return ""
}

// isForeign reports whether a program is known that writes the name.
func isForeign(name string) bool {
	name, _, _ = strings.Cut(strings.Trim(name, "{}"), ".")
	switch name {
	case "DES-CRYPT", "DIGEST-MD5", "PLAIN-MD4", "PLAIN-TRUNC", "OTP", "SKEY", "RPA", "LANMAN", "NTLM", // Dovecot
		"SCRAM-SHA-1", "SCRAM-SHA-512", "PBKDF2-SHA1", "PBKDF2-SHA256", "PBKDF2-SHA512", "ARGON2", "SASL", "KERBEROS", "SHA384", "SSHA384", // OpenLDAP
		"BCRYPT", "NOOP", "PBKDF2@SPRINGSECURITY_V5_8": // Spring
		return true
	}
	return false
}
