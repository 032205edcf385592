package server

import (
	"errors"
	"strings"

	"github.com/emersion/go-smtp"

	"postern/server/auth"
	"postern/server/smtpd"
)

// The replies of the sessions. A client receives one text for all causes of a kind;
// the cause goes to the log.
var (
	replyNeedAuth       = reply(530, 5, 7, 0, "Authentication required")            // RFC 6409, section 4.3
	replyTooLarge       = reply(552, 5, 3, 4, "Message size exceeds fixed limit")   // RFC 1870, section 6.3
	replyAuthenticated  = reply(235, 2, 7, 0, "Authentication successful")          // RFC 4954, section 6
	replyBadCredentials = reply(535, 5, 7, 8, "Authentication credentials invalid") // RFC 4954, section 6
	replyMechanism      = reply(504, 5, 5, 4, "Unrecognized authentication type")   // RFC 4954, section 4
	replyMalformedAuth  = reply(501, 5, 5, 2, "Malformed authentication response")  // RFC 4954, section 4
	replyAuthLater      = reply(454, 4, 7, 0, "Temporary authentication failure")   // RFC 4954, section 6
	replyDisabled       = reply(535, 5, 7, 13, "Account disabled")
	replyExpired        = reply(535, 5, 7, 8, "Password expired")
	replyNoStorage      = reply(452, 4, 3, 1, "Insufficient system storage")
	replyCut            = reply(451, 4, 4, 2, "Message was cut short; nothing was sent")
	replyBareNewline    = reply(550, 5, 6, 0, "Message has a bare CR or LF")
	replyNUL            = reply(550, 5, 6, 0, "Message has a NUL byte")
	replyLongLine       = reply(550, 5, 6, 0, "Message has a line that is too long")
	replyLongHeader     = reply(550, 5, 6, 0, "Message header is too large")
	replyNoHop          = reply(451, 4, 4, 1, "The mail system behind this server does not answer; try again later")
	replyUnknownClient  = reply(451, 4, 3, 5, "The proxy does not name the client; only health checks are allowed")
	replyInternal       = reply(451, 4, 3, 0, "Internal error; try again later")

	replyMailMax            = closing("Too many messages in this session; reconnect to send more") // RFC 9422
	replyTooManyFailures    = closing("Error: too many authentication failures")
	replyTooManyConnections = closing("Error: too many connections")
	replyTooManyOfUser      = closing("Error: too many connections of this user")
	replyUserIdle           = closing("Error: too many connections of this user; this one was idle")
	replyShuttingDown       = smtpd.NewReply(421, smtp.EnhancedCode{4, 3, 2}, "Service shutting down")
)

func reply(code, class, subject, detail int, text string) *smtpd.Reply {
	return smtpd.NewReply(code, smtp.EnhancedCode{class, subject, detail}, text)
}

// closing is a reply after which the connection is closed (RFC 5321, section 3.8).
func closing(text string) *smtpd.Reply {
	r := reply(421, 4, 7, 0, text)
	r.Close, r.NotAnError = true, true
	return r
}

// withCause is r with a cause for the log.
func withCause(r *smtpd.Reply, cause error) *smtpd.Reply {
	c := *r
	c.Cause = cause
	return &c
}

// replyOf is e as a reply, with a cause for the log that may be nil.
func replyOf(e *smtp.SMTPError, cause error) *smtpd.Reply {
	return &smtpd.Reply{Code: e.Code, Enhanced: e.EnhancedCode, Lines: strings.Split(e.Message, "\n"), Cause: cause}
}

// authReply is the reply to an exchange that failed. Whether the account exists is
// not shown: only Disabled and Expired, which a store reports to a client that gave
// the right password, have texts of their own.
func authReply(err error) *smtpd.Reply {
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

// headerReply is the reply to a message whose header cannot be put in order.
func headerReply(err error) *smtpd.Reply {
	var e *smtp.SMTPError
	if errors.As(err, &e) {
		return replyOf(e, nil)
	}
	return withCause(replyInternal, err)
}

// relayReply is the reply to an error of the next hop: the hop's own text if it has
// answered, a temporary error if it has not.
func relayReply(err error) *smtpd.Reply {
	var e *smtp.SMTPError
	if !errors.As(err, &e) || e.Code/100 != 4 && e.Code/100 != 5 {
		return withCause(replyNoHop, err)
	}
	r := replyOf(e, nil)
	if err != error(e) {
		r.Cause = err
	}
	if e.Code == 421 {
		r.Code = 451 // the hop closes its connection, and the client's stays open
	}
	return r
}
