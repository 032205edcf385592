package smtpd

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"
	"time"

	"github.com/emersion/go-smtp"
)

// RFC 4954, section 4.
var (
	replyAuthSyntax    = NewReply(501, smtp.EnhancedCode{5, 5, 4}, "Syntax: AUTH mechanism")
	replyAuthTwice     = NewReply(503, smtp.EnhancedCode{5, 5, 1}, "Already authenticated")
	replyAuthInMail    = NewReply(503, smtp.EnhancedCode{5, 5, 1}, "AUTH not permitted during a mail transaction")
	replyNotBase64     = NewReply(501, smtp.EnhancedCode{5, 5, 2}, "Error: cannot decode the response")
	replyCancelled     = NewReply(501, smtp.EnhancedCode{5, 7, 0}, "Authentication cancelled")
	replyLongResponse  = NewReply(500, smtp.EnhancedCode{5, 5, 6}, "Authentication exchange line is too long")
	replyEmptyContinue = &Reply{Code: 334, Enhanced: smtp.NoEnhancedCode, Lines: []string{""}}
)

// auth is AUTH (RFC 4954). Its argument is never logged.
func (c *Conn) auth(_, argument string) (*Reply, error) {
	fields := strings.Fields(argument)
	switch {
	case c.hello == "":
		return replyNeedHello, nil
	case c.loggedIn:
		return replyAuthTwice, nil
	case c.mail.open:
		return replyAuthInMail, nil
	case len(fields) < 1 || len(fields) > 2:
		return replyAuthSyntax, nil
	}
	ctx, cancel := c.replyContext()
	mechanism := strings.Clone(strings.ToUpper(fields[0])) // a copy, so that keeping it does not keep the password
	x, refused := c.session.Auth(ctx, mechanism)
	cancel()
	if refused != nil {
		return refused, nil
	}
	r, reason, err := c.converse(x, fields[1:])
	x.Close(reason)
	c.loggedIn = r != nil && !r.Negative()
	return r, err
}

// converse runs the exchange to its end. sent is the initial response, if there is one. It
// returns the reply that ends the exchange, and the reason for Exchange.Close. err ends the
// connection.
func (c *Conn) converse(x Exchange, sent []string) (r *Reply, reason, err error) {
	for {
		var response []byte // nil: the client has sent none
		switch {
		case len(sent) == 0:
		case sent[0] == "=":
			response = []byte{}
		default:
			if response, err = base64.StdEncoding.DecodeString(sent[0]); err != nil {
				return replyNotBase64, ErrMalformed, nil
			}
		}
		challenge, r := c.step(x, response)
		if r != nil {
			return r, nil, nil
		}
		c.send(continueWith(challenge))
		line, err := c.readLine(false)
		if errors.Is(err, errLongLine) {
			return replyLongResponse, ErrMalformed, nil
		}
		if err != nil {
			return nil, err, err
		}
		text := strings.Trim(string(line), blanks+"\r\n")
		clear(line) // it may be a password, and the buffer serves others
		if text == "*" {
			return replyCancelled, ErrCancelled, nil
		}
		sent = []string{text}
	}
}

// lookEvery is the time between two looks whether the client has hung up.
const lookEvery = time.Second

// step asks the exchange for its next challenge or its outcome. After a panic the
// exchange is closed here: it may hold a connection to a store.
func (c *Conn) step(x Exchange, response []byte) ([]byte, *Reply) {
	ctx, abort := context.WithCancelCause(c.ctx)
	defer abort(nil)
	ctx, cancel := context.WithTimeout(ctx, c.cfg.ReplyTime)
	defer cancel()
	// While the exchange waits, nothing is read from the client, so look whether it has hung up.
	var look func()
	look = func() {
		switch {
		case ctx.Err() != nil: // the step is over
		case hungUp(c.transport.Conn):
			abort(ErrHungUp)
		default:
			time.AfterFunc(lookEvery, look)
		}
	}
	defer time.AfterFunc(lookEvery, look).Stop()
	returned := false
	defer func() {
		if !returned {
			x.Close(ErrClosed)
		}
	}()
	challenge, r := x.Next(ctx, response)
	returned = true
	return challenge, r
}

// continueWith is the reply 334 with a challenge. An empty one keeps its blank.
func continueWith(challenge []byte) *Reply {
	if len(challenge) == 0 {
		return replyEmptyContinue
	}
	text := base64.StdEncoding.EncodeToString(challenge)
	return &Reply{Code: 334, Enhanced: smtp.NoEnhancedCode, Lines: []string{text}}
}
