package pemfile

import (
	"crypto/x509/pkix"
	"encoding/asn1"
)

// algorithmNames are the public key algorithms and curves that crypto/x509 does not know, or
// that TLS does not use (RFC 5480, RFC 5639, RFC 8410, RFC 4055).
var algorithmNames = map[string]string{
	"1.2.840.10040.4.1":     "DSA",
	"1.2.840.113549.1.1.10": "RSA-PSS",
	"1.3.101.110":           "X25519",
	"1.3.101.111":           "X448",
	"1.3.101.113":           "Ed448",
	"1.3.132.0.10":          "secp256k1",
	"1.3.132.0.33":          "P-224",
	"1.2.840.10045.3.1.1":   "P-192",
	"1.3.36.3.3.2.8.1.1.7":  "brainpoolP256r1",
	"1.3.36.3.3.2.8.1.1.11": "brainpoolP384r1",
	"1.3.36.3.3.2.8.1.1.13": "brainpoolP512r1",
	"1.2.156.10197.1.301":   "SM2",
}

var oidEC = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}

// algorithmName returns the name of an algorithm, or of its curve.
func algorithmName(a pkix.AlgorithmIdentifier) string {
	oid := a.Algorithm
	if oid.Equal(oidEC) {
		var curve asn1.ObjectIdentifier
		if _, err := asn1.Unmarshal(a.Parameters.FullBytes, &curve); err != nil {
			return "curve with parameters of its own"
		}
		oid = curve
	}
	if name := algorithmNames[oid.String()]; name != "" {
		return name
	}
	return oid.String()
}

// keyAlgorithm returns the name of the algorithm of a key in PKCS#8 (RFC 5958) or on a curve
// (RFC 5915), or an empty string.
func keyAlgorithm(der []byte) string {
	var pkcs8 struct {
		Version   int
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.RawValue
		Rest      []asn1.RawValue `asn1:"optional,tag:0"`
	}
	if _, err := asn1.Unmarshal(der, &pkcs8); err == nil {
		return algorithmName(pkcs8.Algorithm)
	}
	var ec struct {
		Version int
		Key     []byte
		Curve   asn1.ObjectIdentifier `asn1:"optional,explicit,tag:0"`
	}
	if _, err := asn1.Unmarshal(der, &ec); err == nil && len(ec.Curve) > 0 {
		return algorithmName(pkix.AlgorithmIdentifier{Algorithm: ec.Curve})
	}
	return ""
}

// certificateAlgorithm returns the name of the algorithm of the key in a certificate.
func certificateAlgorithm(der []byte) string {
	var c struct {
		TBS struct {
			Version   int `asn1:"optional,explicit,default:0,tag:0"`
			Serial    asn1.RawValue
			Signature pkix.AlgorithmIdentifier
			Issuer    asn1.RawValue
			Validity  asn1.RawValue
			Subject   asn1.RawValue
			PublicKey struct {
				Algorithm pkix.AlgorithmIdentifier
				Key       asn1.BitString
			}
			Rest []asn1.RawValue `asn1:"optional"`
		}
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	// Extensions follow the key; what is read so far is enough.
	_, _ = asn1.Unmarshal(der, &c)
	if len(c.TBS.PublicKey.Algorithm.Algorithm) == 0 {
		return ""
	}
	return algorithmName(c.TBS.PublicKey.Algorithm)
}
