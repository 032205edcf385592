package pemfile

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"unicode/utf8"

	"postern/internal/fileperm"
)

// foreign returns an error if text is no PEM file but in another format that certificates
// and keys are handed over in.
func (f *file) foreign(text []byte) error {
	what, step := f.recognize(text)
	if what == "" {
		return nil
	}
	return fmt.Errorf("%s %s, not %s in PEM form; %s", f.name, what, f.want.noun, step)
}

// recognize returns what a file is, or an empty string for one that may be in PEM form.
func (f *file) recognize(text []byte) (what, step string) {
	name := fileperm.ShellQuote(f.name)
	convert := func(from string) string {
		return fmt.Sprintf("run %q and name the new file", fmt.Sprintf("iconv -f %s -t UTF-8 %s > %s", from, name, f.want.output))
	}
	trimmed := bytes.TrimSpace(bytes.TrimPrefix(text, []byte(mark)))
	switch {
	case len(trimmed) == 0:
		return "is empty", "copy the file again from its source"
	case bytes.HasPrefix(text, []byte{0xff, 0xfe}), len(text) > 3 && text[0] == '-' && text[1] == 0:
		return "is text in UTF-16", convert("UTF-16LE")
	case bytes.HasPrefix(text, []byte{0xfe, 0xff}), len(text) > 3 && text[0] == 0 && text[1] == '-':
		return "is text in UTF-16", convert("UTF-16BE")
	case bytes.HasPrefix(text, []byte{0xfe, 0xed, 0xfe, 0xed}):
		return "is a Java key store (JKS)", fmt.Sprintf("run \"keytool -importkeystore -srckeystore %s -deststoretype PKCS12 -destkeystore store.p12\" and convert store.p12 with openssl pkcs12", name)
	case text[0] == 0x30 && (!utf8.Valid(text) || kindOfDER(text) != ""):
		return f.recognizeDER(text)
	case bytes.HasPrefix(trimmed, []byte("PuTTY-User-Key-File")):
		return "is an SSH key of PuTTY", f.makeKey()
	case bytes.HasPrefix(trimmed, []byte("ssh-")), bytes.HasPrefix(trimmed, []byte("ecdsa-sha2-")), bytes.HasPrefix(trimmed, []byte("---- BEGIN SSH2")):
		return "is a public key of SSH", f.makeKey()
	case bytes.HasPrefix(trimmed, []byte("LS0tLS1CRUdJTi")):
		return "is base64 of a PEM file, as in secrets of Kubernetes", fmt.Sprintf("run \"base64 -d %s > %s\" and name the new file", name, f.want.output)
	case bytes.HasPrefix(trimmed, []byte("MI")) && !bytes.Contains(trimmed, []byte(dashes)):
		return "is base64 without the lines of PEM", fmt.Sprintf("write \"-----BEGIN %s-----\" before it and \"-----END %[1]s-----\" after it", f.want.label)
	case bytes.IndexByte(text, 0) >= 0:
		return "is binary", "copy the file again from its source"
	}
	return "", ""
}

// makeKey is the step for what cannot become a key for this purpose.
func (f *file) makeKey() string {
	if f.want.label == "CERTIFICATE" {
		return "name the file with the certificate"
	}
	return "name the key that the certificate was requested with"
}

// Object identifiers of files: PKCS#7 signed data, and the data in PKCS#12 (RFC 2315, RFC 7292).
var (
	oidData       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidSignedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
)

var (
	derData       = []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1}
	derSignedData = []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2}
)

// recognizeDER distinguishes files in DER by their first elements.
func (f *file) recognizeDER(der []byte) (what, step string) {
	name := fileperm.ShellQuote(f.name)
	run := func(command string) string {
		return fmt.Sprintf("run \"openssl %s -in %s -out %s\" and name the new file", command, name, f.want.output)
	}
	keys := f.want.label != "CERTIFICATE"
	switch kindOfDER(der) {
	case "pkcs12":
		if keys {
			return "is PKCS#12 (.p12, .pfx)", run("pkcs12 -nocerts -nodes")
		}
		return "is PKCS#12 (.p12, .pfx)", run("pkcs12 -nokeys")
	case "pkcs7":
		return "is PKCS#7 in DER form (.p7b)", run("pkcs7 -inform DER -print_certs")
	case "certificate":
		if keys {
			return "is a certificate in DER form", "name the file with the key"
		}
		return "is a certificate in DER form (.der, .cer)", run("x509 -inform DER")
	case "key":
		if keys {
			return "is a private key in DER form", run("pkey -inform DER")
		}
		return "is a private key in DER form", "name the file with the certificate"
	case "request":
		return "is a certificate request in DER form", "send it to a CA and name the certificate that it returns"
	}
	return "is binary, in a form that is not known", "copy the file again from its source"
}

func kindOfDER(der []byte) string {
	var outer struct {
		First asn1.RawValue
		Rest  asn1.RawValue `asn1:"optional"`
		More  asn1.RawValue `asn1:"optional"`
	}
	if _, err := x509.ParseCertificate(der); err == nil {
		return "certificate"
	}
	if _, err := x509.ParseCertificateRequest(der); err == nil {
		return "request"
	}
	if _, err := parseDERKey(der); err == nil {
		return "key"
	}
	if _, err := asn1.Unmarshal(der, &outer); err == nil {
		var oid asn1.ObjectIdentifier
		if _, err := asn1.Unmarshal(outer.First.FullBytes, &oid); err == nil && oid.Equal(oidSignedData) {
			return "pkcs7"
		}
		var inner struct {
			Type asn1.ObjectIdentifier
			Data asn1.RawValue `asn1:"optional"`
		}
		if _, err := asn1.Unmarshal(outer.Rest.FullBytes, &inner); err == nil && (inner.Type.Equal(oidData) || inner.Type.Equal(oidSignedData)) {
			return "pkcs12"
		}
		if outer.First.Tag == asn1.TagSequence && outer.Rest.Tag == asn1.TagOctetString {
			return "key" // encrypted PKCS#8
		}
	}
	switch start := der[:min(len(der), 64)]; { // in BER, with lengths at the end
	case len(der) > 1 && der[1] != 0x80:
	case bytes.Contains(start, derSignedData) && !bytes.Contains(start, []byte{2, 1, 3}):
		return "pkcs7"
	case bytes.Contains(start, derData), bytes.Contains(start, derSignedData):
		return "pkcs12"
	}
	return ""
}
