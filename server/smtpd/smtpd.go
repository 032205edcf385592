// Package smtpd is the SMTP server protocol (RFC 5321, RFC 6409) without any policy.
//
// [Serve] runs one connection from the greeting to the close: it reads command
// lines, checks their form and their order, parses addresses and parameters,
// frames DATA, BDAT and AUTH, upgrades to TLS, counts errors, and writes
// replies. Every decision is left to a [Session], which a [Handler] creates for
// each connection. The package has no policy, no user store and no relay.
//
// The extensions are PIPELINING (RFC 2920), 8BITMIME (RFC 6152),
// ENHANCEDSTATUSCODES (RFC 2034), CHUNKING (RFC 3030), STARTTLS (RFC 3207), AUTH
// (RFC 4954), SIZE (RFC 1870), SMTPUTF8 (RFC 6531), DSN (RFC 3461) and LIMITS
// (RFC 9422). Left out are BINARYMIME, REQUIRETLS, DELIVERBY, FUTURERELEASE,
// MT-PRIORITY, ETRN, LMTP, and verification of addresses: VRFY is answered with 252.
//
// One goroutine serves a connection, and it alone calls the session:
//
//	conn       the life of a connection
//	close      the ways to end it
//	command    the table of commands, and those without a message
//	mail       MAIL and RCPT, and their ESMTP parameters
//	data       DATA and BDAT: both push the message into one Body
//	rate       the minimum data rate of a message
//	auth       AUTH: base64, cancellation, a client that hangs up during an exchange
//	foreign    lines of other protocols than SMTP
//	path       addresses, as leniently as Postfix reads them
//	transport  the socket and the TLS over it; lines and blocks that have come, without a
//	           buffer for an idle client; replies, of which those to pipelined commands
//	           go out in one packet; the end of a connection
//	socket     options and states of TCP that depend on the system
//
// To add a command, add a row to the table in command.go. To add a parameter,
// add a row to the table in mail.go and a field to [Offer] if it depends on
// what the server can do.
package smtpd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/emersion/go-smtp"

	"postern/internal/text"
)

// Config is what the connections of one listener have in common. It is not
// changed while it is in use. Zero limits and times are not "unlimited": every
// field has to be set, except those that name a default.
type Config struct {
	Hostname    string      // in the greeting and in the reply to EHLO
	TLS         *tls.Config // for STARTTLS or ImplicitTLS; nil: STARTTLS is not offered
	ImplicitTLS bool        // TLS from the first byte (RFC 8314, section 3.3)
	RequireTLS  bool        // refuse commands in clear text with 530 (RFC 3207, section 4; smtpd_tls_security_level = encrypt)

	// HiddenKeywords are EHLO keywords that are not offered, in capitals
	// (smtpd_discard_ehlo_keywords). A hidden CHUNKING, DSN or SMTPUTF8 is not
	// accepted either; the others still work for a client that uses them.
	HiddenKeywords []string

	// The budgets of a connection. They survive STARTTLS; an accepted message
	// resets the first two.
	MaxErrors    int // refused commands before 421 (smtpd_hard_error_limit)
	MaxJunk      int // NOOP, RSET, EHLO, HELO, VRFY, empty lines, and chunks after a refused one; each further one is an error (smtpd_junk_command_limit)
	MaxOvershoot int // recipients above Offer.RcptMax in one transaction; each further one is an error (smtpd_recipient_overshoot_limit)

	MaxLine     int // octets of a command line, the line end included
	MinDataRate int // octets per second of a message, see dataBudget (smtpd_min_data_rate); 0: no minimum

	PreAuth   Timeouts      // until Conn.Authenticated
	Normal    Timeouts      // from then on
	LoginTime time.Duration // from the connection to Conn.Authenticated
	ReplyTime time.Duration // for the reply to a command, or to the end of a message (RFC 6409, section 5.3)
	WriteTime time.Duration // for the client to take a packet of replies

	RefuseTime time.Duration // for the handshake of a connection that Handler refuses, with ImplicitTLS

	Linger *Linger // shared by all connections of the server; nil: connections are closed at once
}

// Timeouts bound how long a client may be silent.
type Timeouts struct {
	Command time.Duration // from the last reply to the end of the next command line
	Data    time.Duration // for the next block of a message
}

// A Handler creates the session of each connection. It is called by many
// goroutines at once.
type Handler interface {
	// NewSession is called once for a connection, before anything is sent or
	// read. ctx lives as long as the connection. With a Reply the connection is
	// refused: the client receives the reply in the place of the greeting (after
	// the handshake, with ImplicitTLS), and no Session method is called.
	NewSession(ctx context.Context, c *Conn) (Session, *Reply)
}

// A Session decides what becomes of the commands of one connection. Its methods
// are called by one goroutine, one at a time. Where a method returns a *Reply,
// nil is the standard positive reply. Each ctx ends when the reply to the
// command is due (Config.ReplyTime) or the connection is aborted.
type Session interface {
	// Offer is what EHLO lists. It is asked after Hello, and holds until the next
	// EHLO or HELO: parameters are parsed against it.
	Offer() Offer

	// Hello is HELO, or EHLO if extended. name is what the client calls itself,
	// cut to 512 octets; it is not to be trusted.
	Hello(ctx context.Context, name string, extended bool) *Reply

	// Auth begins an exchange of the mechanism, which is in capitals and need
	// not be one of Offer.Mechanisms. It is not called in a transaction, nor
	// after Conn.Authenticated.
	Auth(ctx context.Context, mechanism string) (Exchange, *Reply)

	// Mail begins a transaction unless it returns a negative Reply. p is the
	// session's to keep.
	Mail(ctx context.Context, from Path, p *smtp.MailOptions) *Reply

	// Rcpt adds a recipient to the transaction unless it returns a negative Reply.
	Rcpt(ctx context.Context, to Path, p *smtp.RcptOptions) *Reply

	// Data is called before 354, or before the first chunk of a message is read,
	// when there is a recipient. After a Reply the transaction goes on with DATA,
	// and waits for RSET with BDAT.
	Data(ctx context.Context, bdat bool) (Body, *Reply)

	// Reset ends the transaction, if there is one.
	Reset(ctx context.Context, why Cause)

	// Refused is called with every negative reply, the session's own included,
	// before it is sent.
	Refused(r Refusal)

	// Close is the last call, when the connection is closed. reason is why: a
	// *HandshakeError, a *ForeignError, a *PanicError, ErrQuit, ErrTimeout, ErrTooSlow,
	// ErrTooLong, ErrClosed when the server ended it, or an error of the connection,
	// io.EOF among them.
	Close(reason error)
}

// An Offer is what the server can do for a client at the time of its EHLO.
type Offer struct {
	Size       int64    // largest message in octets; 0: no limit
	RcptMax    int      // recipients of a transaction; 0: no limit
	DSN, UTF8  bool     // RFC 3461, RFC 6531
	Mechanisms []string // of AUTH; empty: AUTH is not listed
}

// A Body takes one message. It is written by one goroutine, across commands with
// BDAT. Commit or Abort ends it, exactly once.
type Body interface {
	// Write takes the next octets, dots already unstuffed. p is valid during the
	// call only. After an error the rest of the message (of the chunk) is read
	// and discarded, and Abort is called with that error.
	Write(p []byte) (int, error)

	// Commit is called after the final dot or BDAT LAST. A nil Reply is 250.
	Commit(ctx context.Context) *Reply

	// Abort is called when the message will not be whole: after an error of
	// Write, with ErrTooLarge, ErrReset, or with what cut the connection. Where
	// the client waits for a reply it receives the one that Abort returns.
	Abort(err error) *Reply
}

// An Exchange is one SASL conversation (RFC 4422).
type Exchange interface {
	// Next takes the client's response: nil is none (the client sent no initial
	// response), an empty slice is "=". The challenge is sent with 334 if the
	// Reply is nil. With a Reply the exchange is over; 235 is success. ctx ends
	// if the client hangs up, too: its cause is ErrHungUp then.
	Next(ctx context.Context, response []byte) (challenge []byte, r *Reply)

	// Close is the last call, exactly once. reason is nil after Next has returned
	// a Reply, ErrCancelled after "*", ErrMalformed after a response that cannot
	// be decoded, or what ended the connection.
	Close(reason error)
}

// A Reply answers a command. It is not changed once it has been returned, so one
// value may serve many connections if OnSeen is nil.
type Reply struct {
	Code     int
	Enhanced smtp.EnhancedCode // on each line (RFC 2034, section 4); NoEnhancedCode: on none
	Lines    []string          // at least one; control characters are replaced, and lines cut at 510 octets

	Close      bool // the connection is closed after this reply, which should be 221, 421 or 521 (RFC 7504)
	NotAnError bool // does not count towards Config.MaxErrors

	// OnSeen, if it is not nil, is called once: with true when the client has
	// sent something after the reply, with false when the reply could not be
	// sent, or the connection ended, or was not acknowledged for a minute,
	// without that. It may be called by any goroutine and must not block.
	OnSeen func(seen bool)

	// Cause is what the log shows beside the text. It is never sent.
	Cause error
}

// NewReply makes a Reply of one line.
func NewReply(code int, enhanced smtp.EnhancedCode, text string) *Reply {
	return &Reply{Code: code, Enhanced: enhanced, Lines: []string{text}}
}

// Negative reports whether the command failed: 4yz or 5yz.
func (r *Reply) Negative() bool { return r.Code >= 400 }

// Text is the lines of the reply, separated by LF.
func (r *Reply) Text() string { return strings.Join(r.Lines, "\n") }

// appendTo appends the reply as it is sent.
func (r *Reply) appendTo(b []byte) []byte {
	for i, line := range r.Lines {
		begin := len(b)
		b = strconv.AppendInt(b, int64(r.Code), 10)
		if i < len(r.Lines)-1 {
			b = append(b, '-')
		} else {
			b = append(b, ' ')
		}
		// 3yz has no enhanced code. One that is not set is the general one of its class
		// (RFC 3463, section 3.1).
		enhanced := r.Enhanced
		if enhanced == smtp.EnhancedCodeNotSet {
			enhanced = smtp.EnhancedCode{r.Code / 100, 0, 0}
		}
		if enhanced != smtp.NoEnhancedCode && r.Code/100 != 3 {
			b = fmt.Appendf(b, "%d.%d.%d ", enhanced[0], enhanced[1], enhanced[2])
		}
		safe := text.Replace(line, func(r rune) bool { return r == utf8.RuneError || unicode.IsControl(r) }, '?')
		b = append(b, text.Cut(safe, maxReplyLine-(len(b)-begin))...)
		b = append(b, "\r\n"...)
	}
	return b
}

// maxReplyLine bounds a line of a reply, without CRLF (RFC 5321, section 4.5.3.1.5).
const maxReplyLine = 510

// A Cause is why a transaction ended.
type Cause uint8

// The causes of Session.Reset.
const (
	ResetCommand Cause = iota // RSET
	ResetHello                // EHLO or HELO
	ResetTLS                  // STARTTLS: all that is known of the client is forgotten (RFC 3207, section 4.2)
	ResetMessage              // the message was accepted or refused
	ResetClosing              // the connection ends
)

// A Refusal is a negative reply, for the log.
type Refusal struct {
	Verb     string // in capitals; "unknown" if it is not a command
	Argument string // as the client sent it; empty for AUTH and for what is not a command, which may be a password
	Reply    *Reply
}

// Why a message, an exchange or a connection ended.
var (
	ErrTooLarge  = errors.New("smtpd: message is too large")
	ErrReset     = errors.New("smtpd: message was abandoned by RSET or EHLO")
	ErrCancelled = errors.New("smtpd: exchange was cancelled by the client")
	ErrMalformed = errors.New("smtpd: response is not base64")
	ErrHungUp    = errors.New("smtpd: client has hung up")
	ErrQuit      = errors.New("smtpd: client has sent QUIT")
	ErrTimeout   = errors.New("smtpd: client was silent for too long")
	ErrTooSlow   = errors.New("smtpd: message arrived at less than the minimum data rate")
	ErrTooLong   = errors.New("smtpd: line is too long")
	ErrClosed    = errors.New("smtpd: closed by the server")
)

// A HandshakeError is a TLS handshake that failed.
type HandshakeError struct{ Err error }

func (e *HandshakeError) Error() string { return "smtpd: TLS handshake: " + e.Err.Error() }
func (e *HandshakeError) Unwrap() error { return e.Err }

// A PanicError is a panic in a Session, Body or Exchange, or in this package. The
// client has received 421.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return "smtpd: panic" }
