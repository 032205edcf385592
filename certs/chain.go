package certs

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"postern/internal/fileperm"
	"postern/internal/pemfile"
)

// chainProblems are those that a client finds when it verifies the chain that is sent.
// system are the authorities of the system, nil or empty if there are none.
//
// An authority of one's own is common, so a chain that the system does not trust is a Note,
// unless something shows that a certificate is missing: its file lies beside, or the leaf was
// issued by a public authority, which never issues from its root
// (CA/Browser Forum, Baseline Requirements 6.1.7).
func chainProblems(file string, chain []*x509.Certificate, system *x509.CertPool, now time.Time) []Problem {
	leaf, top := chain[0], topOf(chain)
	if now.After(leaf.NotAfter) || now.Before(leaf.NotBefore) {
		return nil // clients look no further
	}
	if isSelfIssued(leaf) {
		return []Problem{{Note, "certificate is self-signed, so each client has to be told to trust it", "get one from an authority before others use the server"}}
	}
	if system != nil {
		if _, ok := errors.AsType[x509.UnknownAuthorityError](verify(chain, system, now)); !ok {
			return verifyProblem(verify(chain, system, now), leaf)
		}
	}
	own := x509.NewCertPool()
	own.AddCert(top)
	if top != leaf {
		if p := verifyProblem(verify(chain, own, now), leaf); p != nil {
			return p
		}
	}
	if isSelfIssued(top) {
		return []Problem{{Note, fmt.Sprintf("certificate is issued by %s, an authority that this system does not trust; clients have to", subject(top)), ""}}
	}
	return []Problem{missingIssuer(file, leaf, top)}
}

func verify(chain []*x509.Certificate, roots *x509.CertPool, now time.Time) error {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now})
	return err
}

// verifyProblem explains an error about a certificate of the chain other than the leaf, whose
// own problems are reported by leafProblems.
func verifyProblem(err error, leaf *x509.Certificate) []Problem {
	if err == nil {
		return nil
	}
	invalid, ok := errors.AsType[x509.CertificateInvalidError](err)
	if weak, unknown := errors.AsType[x509.UnknownAuthorityError](err); unknown && strings.Contains(weak.Error(), "insecure algorithm") && !isWeakSignature(leaf) {
		return []Problem{{Serious, "a certificate of the chain is signed with SHA-1, which clients refuse", "get the present chain from your CA"}}
	}
	if _, critical := errors.AsType[x509.UnhandledCriticalExtension](err); critical {
		return []Problem{{Serious, "chain has a certificate with a critical extension that clients do not know, so they refuse it" + criticalOf(leaf), "get one without it from your CA"}}
	}
	switch {
	case !ok:
		return nil
	case invalid.Reason == x509.Expired && !invalid.Cert.Equal(leaf):
		return []Problem{{Serious, fmt.Sprintf("the certificate of the authority %s in the chain is not valid now, but from %s until %s", subject(invalid.Cert), invalid.Cert.NotBefore.Format(time.DateOnly), invalid.Cert.NotAfter.Format(time.DateOnly)),
			"replace it by the present one from your CA"}}
	case invalid.Reason == x509.CANotAuthorizedForThisName:
		return []Problem{{Serious, "an authority of the chain may not issue certificates for these names (name constraints)", "get a certificate from another authority"}}
	case invalid.Reason == x509.NotAuthorizedToSign, invalid.Reason == x509.TooManyIntermediates:
		return []Problem{{Serious, fmt.Sprintf("the chain contains a certificate that may not issue others (%s)", subject(invalid.Cert)), "get the present chain from your CA"}}
	}
	return nil // the extended key usage: leafProblems
}

// criticalOf returns the object identifiers of what Go does not handle, if it is in the leaf.
func criticalOf(leaf *x509.Certificate) string {
	if len(leaf.UnhandledCriticalExtensions) == 0 {
		return ""
	}
	return fmt.Sprintf(" (%s)", leaf.UnhandledCriticalExtensions[0])
}

// missingIssuer is for a chain that ends at top, without an authority that is known.
func missingIssuer(file string, leaf, top *x509.Certificate) Problem {
	issuer := name(top.Issuer)
	cause := fmt.Sprintf("chain is incomplete: the certificate of %s, which issued that of %s, is missing", issuer, subject(top))
	beside := findIssuer(file, leaf, top)
	url := slices.IndexFunc(top.IssuingCertificateURL, func(u string) bool { return strings.HasPrefix(u, "http") })
	switch {
	case beside.file != "" && beside.withLeaf:
		return Problem{Serious, cause, fmt.Sprintf("name %s in cert of [[tls.certificates]]", beside.file)}
	case beside.file != "":
		return Problem{Serious, cause, fmt.Sprintf("run \"cat %s %s > %s\" and name the new file", fileperm.ShellQuote(file), fileperm.ShellQuote(beside.file),
			fileperm.ShellQuote(filepath.Join(filepath.Dir(file), "fullchain-new.pem")))}
	case top == leaf && isPublic(leaf) && url >= 0:
		return Problem{Serious, cause, fmt.Sprintf("append the certificate from %s, converted to PEM, to %s", top.IssuingCertificateURL[url], file)}
	case top == leaf && isPublic(leaf):
		return Problem{Serious, cause, fmt.Sprintf("append the intermediate certificates of your CA to %s", file)}
	}
	return Problem{Note, fmt.Sprintf("certificate is issued by %s, an authority that this system does not trust; clients have to", issuer), ""}
}

// oidSCTs is the list of certificate transparency logs, which only public authorities use
// (RFC 6962, section 3.3).
var oidSCTs = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}

// isPublic reports whether a public authority has issued the certificate.
func isPublic(c *x509.Certificate) bool {
	return slices.ContainsFunc(c.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidSCTs) })
}

// An issuerFile is a file with the certificate of an issuer. withLeaf: it also has the leaf.
type issuerFile struct {
	file     string
	withLeaf bool
}

// Bounds for findIssuer.
const (
	maxBeside     = 200     // entries of the folder
	maxBesideSize = 1 << 17 // bytes; bundles of all authorities are larger
)

// findIssuer looks in the folder of file for the certificate that issued top and is not a
// root. The files of authorities have many names: chain.pem and fullchain.pem (certbot),
// NAME.ca-bundle, ca_bundle.crt, gd_bundle-g2.crt, and others.
func findIssuer(file string, leaf, top *x509.Certificate) (best issuerFile) {
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return best
	}
	defer dir.Close()
	entries, _ := dir.ReadDir(maxBeside)
	slices.SortFunc(entries, func(a, b os.DirEntry) int {
		return cmp.Or(cmp.Compare(rank(a.Name()), rank(b.Name())), cmp.Compare(a.Name(), b.Name()))
	})
	for _, e := range entries {
		other := filepath.Join(filepath.Dir(file), e.Name())
		if !isCertificateName(e.Name()) || other == file {
			continue
		}
		st, err := os.Stat(other)
		if err != nil || !st.Mode().IsRegular() || st.Size() > maxBesideSize {
			continue
		}
		certs, err := pemfile.ReadCertificates(other)
		if err != nil || certs.KeyLine > 0 { // a file with a key is not for others to read
			continue
		}
		found := issuerFile{file: other}
		has := false
		for _, c := range certs.List {
			found.withLeaf = found.withLeaf || c.Equal(leaf)
			has = has || isIssuer(c.Certificate, top) && !isSelfIssued(c.Certificate) && top.CheckSignatureFrom(c.Certificate) == nil
		}
		if has && (best.file == "" || found.withLeaf && !best.withLeaf) {
			best = found
		}
	}
	return best
}

// rank puts the usual names of chains first.
func rank(name string) int {
	usual := []string{"fullchain", "chain", "bundle", "intermediate"}
	if i := slices.IndexFunc(usual, func(u string) bool { return strings.Contains(strings.ToLower(name), u) }); i >= 0 {
		return i
	}
	return len(usual)
}

func isCertificateName(name string) bool {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".pem", ".crt", ".cer", ".cert", ".ca-bundle", ".bundle", ".chain", ".txt":
		return true
	}
	return false
}

// topOf follows the issuers from the leaf and returns the last certificate.
func topOf(chain []*x509.Certificate) *x509.Certificate {
	top := chain[0]
	for _, c := range chain[1:] {
		if !isIssuer(c, top) {
			break
		}
		top = c
	}
	return top
}

// isIssuer reports whether issuer may have issued c, by name and key identifier (RFC 5280,
// section 4.2.1.1). The signature is verified later.
func isIssuer(issuer, c *x509.Certificate) bool {
	return issuer != c && bytes.Equal(issuer.RawSubject, c.RawIssuer) && !isSelfIssued(c) &&
		(len(c.AuthorityKeyId) == 0 || len(issuer.SubjectKeyId) == 0 || bytes.Equal(c.AuthorityKeyId, issuer.SubjectKeyId))
}

// isSelfIssued reports whether a certificate has signed itself, by names and key identifiers.
func isSelfIssued(c *x509.Certificate) bool {
	return bytes.Equal(c.RawSubject, c.RawIssuer) &&
		(len(c.AuthorityKeyId) == 0 || len(c.SubjectKeyId) == 0 || bytes.Equal(c.AuthorityKeyId, c.SubjectKeyId))
}

func subject(c *x509.Certificate) string {
	if n := name(c.Subject); n != "" || len(c.DNSNames) == 0 {
		return n
	}
	return fmt.Sprintf("%q", c.DNSNames[0])
}

// name returns the common name of a certificate, or the whole name, quoted: it may be
// anything.
func name(n pkix.Name) string {
	if s := cmp.Or(n.CommonName, n.String()); s != "" {
		return fmt.Sprintf("%.100q", s)
	}
	return ""
}
