// Package pemfile reads the PEM files of administrators: certificates, private keys and
// authorities.
//
// Package encoding/pem skips what it does not understand. Two blocks without a line end
// between them, as "cat cert.pem chain.pem" makes them, are both lost without an error.
// This package accounts for each block of a file. What can be repaired without a doubt is
// used, with a warning; everything else is an error with its line, its cause and the next
// step.
//
//	certs, err := pemfile.ReadCertificates("fullchain.pem")
//	keys, err := pemfile.ReadKeys("privkey.pem", "make one with ...")
//	pool, warnings, err := pemfile.ReadAuthorities("ca.pem")
//
//	scan          blocks and their lines (RFC 7468, RFC 1421)
//	foreign       files in other formats: DER, PKCS#12, UTF-16 and others
//	certificates  certificates and authorities
//	keys          private keys
//	asn1          names of algorithms that crypto/x509 does not know
//
// Line ends of CRLF, blanks at the ends of lines and text between blocks are part of the
// format (RFC 7468, sections 2 and 3) and cause no warning. Errors never contain a part of
// the file. All functions may be called concurrently; memory and time are linear in the
// size of the file, which is bounded.
package pemfile

import (
	"fmt"
	"strings"

	"postern/internal/fileperm"
)

const (
	// maxSize is the largest file of certificates or keys that is read, in bytes.
	maxSize = 1 << 20
	// maxAuthorities is that of authorities. That of Debian has 220 KiB.
	maxAuthorities = 8 << 20
)

// A Block is one block of a file. Type is the label of its first line.
type Block struct {
	Type string
	Line int // of the BEGIN line, from 1
	DER  []byte

	encrypted bool // Proc-Type: 4,ENCRYPTED (RFC 1421, section 4.6.1.1)
}

// A Wrong is the error of a file that contains something else than expected.
type Wrong struct {
	Name  string // of the file
	Found Found
	text  string
}

func (w *Wrong) Error() string { return w.text }

// Found is what a file contains.
type Found string

// The kinds that callers distinguish; others are in the text of the error only.
const (
	FoundKey          Found = "a private key"
	FoundCertificates Found = "a certificate"
)

// A file is a file that has been read.
type file struct {
	name     string
	want     purpose
	blocks   []Block
	repaired []string // what is wrong and was repaired
}

// A purpose is what a file is read for.
type purpose struct {
	noun   string // of what is expected
	label  string // of its blocks
	output string // a name for the result of a conversion
	newKey string // how to make a key of a supported kind
	kind   fileperm.Kind
	limit  int64
}

var (
	forCertificates = purpose{"a certificate", "CERTIFICATE", "fullchain.pem", "", fileperm.Public, maxSize}
	forAuthorities  = purpose{"the certificates of authorities", "CERTIFICATE", "ca.pem", "", fileperm.Public, maxAuthorities}
	forKeys         = purpose{"a private key", "PRIVATE KEY", "privkey.pem", "", fileperm.Secret, maxSize}
)

// read reads the blocks of a file. The error of opening it contains an *fs.PathError.
func read(name string, want purpose) (*file, error) {
	text, err := fileperm.ReadFile(name, want.kind, "one in PEM form", want.limit)
	if err != nil {
		return nil, err
	}
	f := &file{name: name, want: want}
	return f, f.parse(text)
}

func (f *file) parse(text []byte) error {
	if err := f.foreign(text); err != nil {
		return err
	}
	s := scan(string(text))
	f.blocks, f.repaired = s.blocks, s.repaired
	switch {
	case s.err != nil:
		return fmt.Errorf("%s: %w", f.name, s.err)
	case len(s.blocks) == 0:
		return fmt.Errorf("%s contains no block in PEM form; write a file to it that has a line \"-----BEGIN %s-----\"", f.name, f.want.label)
	}
	return nil
}

// warnings returns the repairs with the name of the file.
func (f *file) warnings() (all []string) {
	for _, r := range f.repaired {
		all = append(all, f.name+": "+r)
	}
	return all
}

// wrong returns the error for a block that is not what is expected.
func (f *file) wrong(b Block, found Found, step string) error {
	return &Wrong{f.name, found, fmt.Sprintf("%s, line %d: %s instead of %s; %s", f.name, b.Line, found, f.want.noun, step)}
}

// damaged returns the error for a block whose content cannot be parsed.
func (f *file) damaged(b Block, err error) error {
	why := strings.TrimPrefix(err.Error(), "x509: ")
	return fmt.Errorf("%s, line %d: the block %q is damaged (%s); copy it again from its source", f.name, b.Line, b.Type, why)
}
