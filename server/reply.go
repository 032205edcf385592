package server

import (
	"errors"
	"fmt"
	"strings"

	"github.com/emersion/go-smtp"

	"postern/relay/message"
	"postern/server/auth"
)

// The replies that are ours. What a client sees is dull and the same for all
// causes of a kind; the cause goes to the log.
var (
	replyNeedTLS        = reply(530, 5, 7, 0, "Must issue a STARTTLS command first") // RFC 3207, section 4
	replyNeedAuth       = reply(530, 5, 7, 0, "Authentication required")             // RFC 6409, section 4.3
	replyNestedMail     = reply(503, 5, 5, 1, "Error: nested MAIL command")
	replyAuthInMail     = reply(503, 5, 5, 1, "AUTH not permitted during a mail transaction") // RFC 4954, section 4
	replyAuthTwice      = reply(503, 5, 5, 1, "Already authenticated")
	replyAuthenticated  = reply(235, 2, 7, 0, "Authentication successful") // RFC 4954, section 6
	replyBadSender      = reply(501, 5, 1, 7, "Bad sender address syntax")
	replyBadRecipient   = reply(501, 5, 1, 3, "Bad recipient address syntax")
	replyNeedUTF8       = reply(553, 5, 6, 7, "Address needs SMTPUTF8")                                    // RFC 6531, section 3.5
	replyMailMax        = reply(421, 4, 7, 0, "Too many messages in this session; reconnect to send more") // RFC 9422
	replyTooLarge       = reply(552, 5, 3, 4, "Message size exceeds fixed limit")                          // RFC 1870, section 6.3
	replyNoStorage      = reply(452, 4, 3, 1, "Insufficient system storage")
	replyCut            = reply(451, 4, 4, 2, "Message was cut short; nothing was sent")
	replyBareNewline    = reply(550, 5, 6, 0, "Message has a bare CR or LF")
	replyNUL            = reply(550, 5, 6, 0, "Message has a NUL byte")
	replyLongLine       = reply(550, 5, 6, 0, "Message has a line that is too long")
	replyLongHeader     = reply(550, 5, 6, 0, "Message header is too large")
	replyNoHop          = reply(451, 4, 4, 1, "The mail system behind this server does not answer; try again later")
	replyInHand         = reply(451, 4, 3, 0, "The same message is on its way already; try again later")
	replyBadCredentials = reply(535, 5, 7, 8, "Authentication credentials invalid") // RFC 4954, section 6
	replyDisabled       = reply(535, 5, 7, 13, "Account disabled")
	replyExpired        = reply(535, 5, 7, 8, "Password expired")
	replyAuthLater      = reply(454, 4, 7, 0, "Temporary authentication failure")
	replyMechanism      = reply(504, 5, 5, 4, "Unrecognized authentication type")
	replyMalformedAuth  = reply(501, 5, 5, 2, "Malformed authentication response")
	replyInternal       = reply(451, 4, 3, 0, "Internal error; try again later")
	replyClosing        = reply(421, 4, 7, 0, "This session is over")
)

// Last lines before we hang up.
const (
	shuttingDown    = "421 4.3.2 Service shutting down"
	tooManyErrors   = "421 4.7.0 Error: too many errors"
	tooManyFailures = "421 4.7.0 Error: too many authentication failures"
	tooManyClients  = "421 4.7.0 Error: too many connections"
	tooMuch         = "421 4.7.0 Error: too much data"
	messageCutShort = "421 4.4.2 Error: message cut short"
)

// messageReply is what the client hears when the header cannot be put in order.
func messageReply(err error) *smtp.SMTPError {
	var e *smtp.SMTPError
	if errors.As(err, &e) {
		return e
	}
	return replyInternal
}

func reply(code, class, subject, detail int, text string) *smtp.SMTPError {
	return &smtp.SMTPError{Code: code, EnhancedCode: smtp.EnhancedCode{class, subject, detail}, Message: text}
}

// authReply is what the client hears of a failed exchange. Whether the account
// exists is nobody's business: only Disabled and Expired, which a store says
// to one who gave the right password, have a text of their own.
func authReply(err error) *smtp.SMTPError {
	var failure *auth.Failure
	switch {
	case errors.As(err, &failure):
		switch failure.Kind {
		case auth.Disabled:
			return replyDisabled
		case auth.Expired:
			return replyExpired
		}
		return replyBadCredentials
	case errors.Is(err, auth.ErrMechanism):
		return replyMechanism
	case errors.Is(err, auth.ErrMalformed):
		return replyMalformedAuth
	}
	return replyAuthLater
}

// stageReply is what the client hears when its message could not be taken in.
func stageReply(err error) *smtp.SMTPError {
	var storage *message.StorageError
	switch {
	case isSMTP(err, 552):
		return replyTooLarge
	case errors.Is(err, message.ErrBareNewline):
		return replyBareNewline
	case errors.Is(err, message.ErrNUL):
		return replyNUL
	case errors.Is(err, message.ErrLongLine):
		return replyLongLine
	case errors.Is(err, message.ErrHeaderTooLarge):
		return replyLongHeader
	case errors.As(err, &storage):
		return replyNoStorage
	}
	return replyCut // whatever has ended the connection
}

func isSMTP(err error, code int) bool {
	var e *smtp.SMTPError
	return errors.As(err, &e) && e.Code == code
}

// relayReply is what the client hears of a next hop's error: the hop's own
// words if it has spoken, and "later" if it has not. go-smtp shows any error
// but a bare *smtp.SMTPError to the client, so nothing else may leave.
func relayReply(err error) *smtp.SMTPError {
	var e *smtp.SMTPError
	if errors.As(err, &e) && (e.Code/100 == 4 || e.Code/100 == 5) {
		if e.Code == 421 {
			// The hop closed its channel to us, not we ours to the client.
			return &smtp.SMTPError{Code: 451, EnhancedCode: e.EnhancedCode, Message: e.Message}
		}
		return e
	}
	return replyNoHop
}

// accepted is the reply to a message that the hop has taken, in its own words:
// its queue id is what people look for in the logs. go-smtp sends a 250 that
// comes as an error as it is.
func accepted(text string) *smtp.SMTPError {
	code := smtp.EnhancedCode{2, 0, 0}
	if first, rest, ok := strings.Cut(text, " "); ok {
		var c smtp.EnhancedCode
		if n, _ := fmt.Sscanf(first, "%1d.%d.%d", &c[0], &c[1], &c[2]); n == 3 && c[0] == 2 {
			code, text = c, rest
		}
	}
	return &smtp.SMTPError{Code: 250, EnhancedCode: code, Message: text}
}
