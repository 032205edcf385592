package dovecot

import (
	"bytes"
	"strings"
	"unicode"

	"postern/server/auth"
)

// overheard is what the client's messages tell of the login, for the throttle
// and the log. It decides nothing: who has authenticated is what Dovecot says.
//
// Only what is certain to be read by Dovecot in the same way is taken. From
// other mechanisms nothing is: their attempts count against the address, and
// none is spared for its name.
type overheard struct {
	mech     string
	messages int // with something in them
	login    string
	password string
}

// take listens to one message. It returns the refusal of a name that no backend
// is to see.
func (o *overheard) take(response []byte) error {
	if len(response) == 0 {
		return nil
	}
	o.messages++
	switch {
	case o.mech == "PLAIN" && o.messages == 1:
		o.takePlain(response)
	case o.mech == "LOGIN" && o.messages == 1:
		o.login = string(response)
	case o.mech == "LOGIN" && o.messages == 2:
		o.password = string(response)
	case strings.HasPrefix(o.mech, "SCRAM-") && o.messages == 1:
		o.takeScram(string(response))
	}
	if strings.ContainsFunc(o.login, unicode.IsControl) {
		return &auth.Failure{Kind: auth.NoSuchUser, Store: Kind, Reason: "control character in the name"}
	}
	return nil
}

// RFC 4616, section 2: [authzid] NUL authcid NUL passwd.
func (o *overheard) takePlain(response []byte) {
	fields := bytes.Split(response, []byte{0})
	if len(fields) == 3 {
		o.login, o.password = string(fields[1]), string(fields[2])
	}
}

// RFC 5802, section 7: gs2-cbind-flag "," [authzid] "," "n=" name "," "r=" nonce.
func (o *overheard) takeScram(response string) {
	parts := strings.SplitN(response, ",", 4)
	if len(parts) < 4 {
		return
	}
	name, ok := strings.CutPrefix(parts[2], "n=")
	if ok {
		o.login = strings.NewReplacer("=2C", ",", "=3D", "=").Replace(name)
	}
}
