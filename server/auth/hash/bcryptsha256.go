package hash

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"regexp"
)

var bcryptSHA256Form = regexp.MustCompile(`^\$bcrypt-sha256\$v=2,t=2b,r=([1-9][0-9]?)\$([./A-Za-z0-9]{22})\$([./A-Za-z0-9]{31})$`)

// parseBcryptSHA256 reads what passlib, and with it Mailu, writes by default:
// bcrypt of a digest of the password, so that every byte of a long one counts.
func parseBcryptSHA256(name, text string) (Hash, error) {
	form := bcryptSHA256Form.FindStringSubmatch(text)
	if form == nil {
		return Hash{}, fmt.Errorf("malformed %s hash, or not of version 2", name)
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
