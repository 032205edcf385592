package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"
	"unicode"

	"github.com/emersion/go-smtp"

	"postern/relay"
	"postern/relay/message"
	"postern/server/auth"
	"postern/server/auth/throttle"
	"postern/server/smtpd"
)

// errSecret is the cause of an error: it may be in the log and nowhere else.
var errSecret = errors.New("dial unix /run/secret: refused")

func TestAuthReply(t *testing.T) {
	for _, test := range []struct {
		err  error
		want *smtpd.Reply
	}{
		{&auth.Failure{Kind: auth.NoSuchUser, Err: errSecret}, replyBadCredentials},
		{&auth.Failure{Kind: auth.BadPassword, Reason: "secret"}, replyBadCredentials},
		{&auth.Failure{Kind: auth.Unknowable}, replyBadCredentials},
		{&auth.Failure{Kind: auth.NotAllowed}, replyBadCredentials},
		{&auth.Failure{Kind: auth.Disabled}, replyDisabled},
		{&auth.Failure{Kind: auth.Expired}, replyExpired},
		{fmt.Errorf("secret: %w", &auth.Failure{Kind: auth.BadPassword}), replyBadCredentials},
		{auth.ErrMechanism, replyMechanism},
		{fmt.Errorf("secret: %w", auth.ErrMalformed), replyMalformedAuth},
		{&auth.Unavailable{Store: "secret", Err: errSecret}, replyAuthLater},
		{&auth.Unavailable{Store: "slow", Err: context.DeadlineExceeded}, replyAuthLater},
		{throttle.ErrPenalty, replyAuthLater},
		{errSecret, replyAuthLater},
	} {
		if got := authReply(test.err); got != test.want {
			t.Errorf("%v: %v", test.err, got)
		}
	}
}

func TestStageReply(t *testing.T) {
	for _, test := range []struct {
		err  error
		want *smtpd.Reply
	}{
		{smtpd.ErrTooLarge, replyTooLarge},
		{message.ErrBareNewline, replyBareNewline},
		{fmt.Errorf("secret: %w", message.ErrNUL), replyNUL},
		{message.ErrLongLine, replyLongLine},
		{message.ErrHeaderTooLarge, replyLongHeader},
		{&message.StorageError{Err: errSecret}, replyNoStorage},
		{io.ErrUnexpectedEOF, replyCut},
		{smtpd.ErrReset, replyCut},
		{os.ErrDeadlineExceeded, replyCut},
		{smtpd.ErrTimeout, replyCut},
		{errSecret, replyCut},
	} {
		got := stageReply(test.err)
		if !sameReply(got, test.want) {
			t.Errorf("%v: %v", test.err, got)
		}
		// The log has the reason where the reply does not give it.
		if wantCause := test.want == replyNoStorage || test.want == replyCut; (got.Cause == test.err) != wantCause || got.Cause != nil && !wantCause {
			t.Errorf("%v: the cause is %v", test.err, got.Cause)
		}
	}
}

// sameReply compares what the client receives.
func sameReply(a, b *smtpd.Reply) bool {
	return a.Code == b.Code && a.Enhanced == b.Enhanced && a.Text() == b.Text() && a.Close == b.Close
}

func TestRelayReply(t *testing.T) {
	hop := &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "No such user\nhere"}
	want := &smtpd.Reply{Code: 550, Enhanced: hop.EnhancedCode, Lines: []string{"No such user", "here"}}
	around := fmt.Errorf("secret: %w", hop)
	for err, cause := range map[error]error{hop: nil, around: around} {
		if got := relayReply(err); !sameReply(got, want) || got.Cause != cause {
			t.Errorf("%v: %v", err, got)
		}
	}
	closing := &smtp.SMTPError{Code: 421, EnhancedCode: smtp.EnhancedCode{4, 3, 2}, Message: "Shutting down"}
	if got := relayReply(closing); got.Code != 451 || got.Text() != closing.Message || got.Close || closing.Code != 421 {
		t.Errorf("%v: %v", closing, got)
	}
	for _, err := range []error{errSecret, &smtp.SMTPError{Code: 354, Message: "secret"}, &smtp.SMTPError{Code: 250}} {
		if got := relayReply(err); !sameReply(got, replyNoHop) || got.Cause != err {
			t.Errorf("%v: %v", err, got)
		}
	}
}

func TestHeaderReply(t *testing.T) {
	loop := replyOf(replyLoop, nil)
	for _, test := range []struct {
		err   error
		want  *smtpd.Reply
		cause bool
	}{
		{replyLoop, loop, false},
		{fmt.Errorf("secret: %w", replyLoop), loop, false},
		{fmt.Errorf("secret: %w", io.ErrNoProgress), replyInternal, true},
	} {
		if got := headerReply(test.err); !sameReply(got, test.want) || (got.Cause != nil) != test.cause {
			t.Errorf("%v: %v", test.err, got)
		}
	}
}

func TestAcceptedReply(t *testing.T) {
	s := &session{events: NewLog(slog.New(slog.DiscardHandler)).ForSession("id", "test", netip.Addr{})}
	for _, test := range []struct {
		text, want string
		code       smtp.EnhancedCode
	}{
		{"2.0.0 Ok: queued as 4ZxY", "Ok: queued as 4ZxY", smtp.EnhancedCode{2, 0, 0}},
		{"2.6.0 <id> Queued", "<id> Queued", smtp.EnhancedCode{2, 6, 0}},
		{"Ok: queued as 4ZxY", "Ok: queued as 4ZxY", smtp.EnhancedCode{2, 0, 0}},
		{"5.1.1 odd", "5.1.1 odd", smtp.EnhancedCode{2, 0, 0}},
		{"", "", smtp.EnhancedCode{2, 0, 0}},
	} {
		got := s.accepted(&transaction{envelope: &relay.Envelope{}}, 1, relay.Receipt{Text: test.text})
		if got.Code != 250 || got.Enhanced != test.code || got.Text() != test.want {
			t.Errorf("%q: %v %v %q", test.text, got.Code, got.Enhanced, got.Text())
		}
	}
}

// TestReplies: the class of the enhanced code is that of the code (RFC 2034, section 4),
// a line with them fits into 512 octets (RFC 5321, section 4.5.3.1.5), and 421, after
// which the connection ends, is a reply that closes it.
func TestReplies(t *testing.T) {
	for _, r := range []*smtpd.Reply{
		replyNeedAuth, replyTooLarge, replyAuthenticated, replyBadCredentials, replyMechanism,
		replyMalformedAuth, replyAuthLater, replyDisabled, replyExpired, replyNoStorage, replyCut, replyBareNewline,
		replyNUL, replyLongLine, replyLongHeader, replyNoHop, replyInternal, replyMailMax,
		replyTooManyFailures, replyTooManyConnections, replyShuttingDown, replyOf(replyLoop, nil),
	} {
		text := r.Text()
		if r.Enhanced[0] != r.Code/100 {
			t.Errorf("%v has the enhanced code %v", r, r.Enhanced)
		}
		if len(r.Lines) != 1 || text == "" || len(text) > 400 || strings.ContainsFunc(text, unicode.IsControl) {
			t.Errorf("%v has an odd text", r)
		}
		if r.Close != (r.Code == 421) && r != replyShuttingDown { // which is a farewell
			t.Errorf("%v closes the connection: %v", r, r.Close)
		}
		if r.OnSeen != nil || r.Cause != nil {
			t.Errorf("%v is shared by sessions and has values of one", r)
		}
	}
}
