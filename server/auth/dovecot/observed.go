package dovecot

import (
	"bytes"
	"strings"
	"unicode"

	"postern/server/auth"
)

// observed is what the client's messages show of the login, for the throttle and the log.
// It authenticates no user: that is left to Dovecot's OK.
//
// A value is taken only if Dovecot certainly reads it in the same way. Of other
// mechanisms nothing is taken: their attempts count against the address, and no user is
// exempt from its delay.
type observed struct {
	mech     string
	messages int // that were not empty
	login    string
	password string
}

// add reads one message. It refuses a login that no backend may receive.
func (o *observed) add(response []byte) error {
	if len(response) == 0 {
		return nil
	}
	o.messages++
	switch {
	case o.mech == "PLAIN" && o.messages == 1:
		// RFC 4616, section 2: [authzid] NUL authcid NUL passwd.
		if fields := bytes.Split(response, []byte{0}); len(fields) == 3 {
			o.login, o.password = string(fields[1]), string(fields[2])
		}
	case o.mech == "LOGIN" && o.messages == 1:
		o.login = string(response)
	case o.mech == "LOGIN" && o.messages == 2:
		o.password = string(response)
	case o.mech == "CRAM-MD5":
		// RFC 2195, section 2: name SP digest. Dovecot looks for the last space.
		if at := bytes.LastIndexByte(response, ' '); at >= 0 {
			o.login = string(response[:at])
		}
	case strings.HasPrefix(o.mech, "SCRAM-") && o.messages == 1:
		// RFC 5802, section 7: gs2-cbind-flag "," [authzid] "," "n=" name "," "r=" nonce.
		if parts := strings.SplitN(string(response), ",", 4); len(parts) == 4 {
			if name, ok := strings.CutPrefix(parts[2], "n="); ok {
				o.login = strings.NewReplacer("=2C", ",", "=3D", "=").Replace(name)
			}
		}
	}
	if strings.ContainsFunc(o.login, unicode.IsControl) {
		return &auth.Failure{Kind: auth.NoSuchUser, Store: Kind, Reason: "control character in the name"}
	}
	return nil
}
