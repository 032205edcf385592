//go:build pam

package pam

import (
	"errors"
	"fmt"

	"github.com/msteinert/pam/v2"

	"postern/server/auth/saslauthd"
)

// errBinary is a module that wants to speak to a program of its own.
var errBinary = errors.New("PAM asks in a binary form of its own, which mail clients do not speak")

// A conversation answers the questions of the modules. A mail client has one
// password to give, so a second factor cannot be had: then nobody can tell.
type conversation struct {
	login, password string

	asked  bool   // the password has been asked for
	prompt string // in these words
	err    error  // a question that has no answer
}

// RespondPAM implements pam.ConversationHandler.
func (c *conversation) RespondPAM(style pam.Style, text string) (string, error) {
	switch style {
	case pam.PromptEchoOff:
		return c.secret(text)
	case pam.PromptEchoOn:
		return c.login, nil
	case pam.ErrorMsg, pam.TextInfo:
		return "", nil
	}
	c.err = errBinary
	return "", c.err
}

// secret gives the password, to the same question as often as it is asked: a
// stack of modules without use_first_pass does that.
func (c *conversation) secret(prompt string) (string, error) {
	if c.asked && prompt != c.prompt {
		c.err = fmt.Errorf("PAM asks for more than a password: %s; a mail client has no second factor, "+
			"so give it a PAM service of its own", saslauthd.Clip(prompt))
		return "", c.err
	}
	c.asked, c.prompt = true, prompt
	return c.password, nil
}
