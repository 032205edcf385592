package auth

import (
	"bytes"
	"context"
)

// The prompts of LOGIN. The expired draft (draft-murchison-sasl-login) has
// "User Name" and a NUL, but Outlook, scanners and printers were built against
// servers that send exactly this, and compare it.
const (
	promptUsername = "Username:"
	promptPassword = "Password:"
)

// login is the mechanism LOGIN, which no RFC describes: the server asks for the
// name, then for the password. An initial response is the name.
type login struct {
	passwordExchange
	step int
	name string
}

// The steps of login: what the next response will be.
const (
	loginInitial = iota
	loginName
	loginPassword
	loginOver
)

func startLogin(l Local, p *Peer) Exchange {
	return &login{passwordExchange: passwordExchange{peer: p, store: l.Passwords, mech: mechLogin}}
}

// Next implements Exchange.
func (x *login) Next(ctx context.Context, response []byte) (challenge []byte, done bool, err error) {
	switch x.step {
	case loginInitial:
		// Missing or empty: some clients send "=" and mean "you begin".
		if len(response) == 0 {
			x.step = loginName
			return []byte(promptUsername), false, nil
		}
		return x.takeName(response)
	case loginName:
		return x.takeName(response)
	case loginPassword:
		return x.takePassword(ctx, response)
	}
	return nil, false, ErrMalformed
}

// A name that is not text, or too long, is refused before the client has sent its
// password.
func (x *login) takeName(response []byte) ([]byte, bool, error) {
	x.step = loginOver
	if len(response) == 0 || len(response) > maxResponse || bytes.IndexByte(response, 0) >= 0 {
		return nil, false, ErrMalformed
	}
	name := string(response)
	if f := precheckName("name", name); f != nil {
		return nil, false, withLogin(f, name)
	}
	x.name, x.step = name, loginPassword
	return []byte(promptPassword), false, nil
}

// The password is any bytes but NUL: old clients send the character set of their
// desktop, and the hash may have been made of the same bytes.
func (x *login) takePassword(ctx context.Context, response []byte) ([]byte, bool, error) {
	x.step = loginOver
	if len(response) > maxResponse || bytes.IndexByte(response, 0) >= 0 {
		return nil, false, ErrMalformed
	}
	if err := x.verify(ctx, credentials{login: x.name, password: string(response)}); err != nil {
		return nil, false, err
	}
	return nil, true, nil
}
