package auth

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"hash"

	stored "postern/server/auth/hash"
)

// fakeKeys are what an unknown user gets instead of keys: always the same for the
// same login, and with nothing in them that tells them from real ones. Nobody
// knows a password for them. After a restart they are others: who has asked about
// a login before and after one can tell that nobody has it.
func (s *Scram) fakeKeys(d ScramDecoy) ScramKeys {
	salt := s.derive(sha512.New, "salt", d.Login)
	return ScramKeys{ScramKeys: stored.ScramKeys{
		Salt:       salt[:min(d.SaltLength, len(salt))],
		Iterations: d.Iterations,
		StoredKey:  s.derive(sha256.New, "stored key", d.Login),
		ServerKey:  s.derive(sha256.New, "server key", d.Login),
	}}
}

func (s *Scram) derive(with func() hash.Hash, what, login string) []byte {
	h := hmac.New(with, s.secret)
	h.Write([]byte(what + "\x00" + login))
	return h.Sum(nil)
}
