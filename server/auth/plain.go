package auth

import (
	"bytes"
	"context"
)

// plain is the mechanism PLAIN (RFC 4616).
type plain struct {
	passwordExchange
	asked, over bool
}

func startPlain(l Local, p *Peer) Exchange {
	return &plain{passwordExchange: passwordExchange{peer: p, store: l.Passwords, mech: mechPlain}}
}

// Next implements Exchange.
func (x *plain) Next(ctx context.Context, response []byte) (challenge []byte, done bool, err error) {
	// RFC 4954, section 4: a client that sent no initial response gets an empty
	// challenge and one chance.
	if response == nil && !x.asked && !x.over {
		x.asked = true
		return []byte{}, false, nil
	}
	if response == nil || x.over {
		return nil, false, ErrMalformed
	}
	x.over = true
	c, err := parsePlain(response)
	if err != nil {
		return nil, false, err
	}
	if err := x.verify(ctx, c); err != nil {
		return nil, false, err
	}
	return nil, true, nil
}

// RFC 4616, section 2:
//
//	message = [authzid] UTF8NUL authcid UTF8NUL passwd
//
// where authcid and passwd are not empty. What has this form and cannot be right
// is a failed login (535) and no broken client (501): an empty password, which
// people do send, and names that precheck refuses. The password is any bytes, as
// in LOGIN.
func parsePlain(response []byte) (credentials, error) {
	fields := bytes.SplitN(response, []byte{0}, 4)
	if len(response) > maxResponse || len(fields) != 3 || len(fields[1]) == 0 {
		return credentials{}, ErrMalformed
	}
	return credentials{authzid: string(fields[0]), login: string(fields[1]), password: string(fields[2])}, nil
}
