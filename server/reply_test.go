package server

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/emersion/go-smtp"

	"postern/relay/message"
	"postern/server/auth"
)

// errSecret is the cause of an error: it is in the log and nowhere else.
var errSecret = errors.New("dial unix /run/secret: refused")

func TestAuthReply(t *testing.T) {
	for _, test := range []struct {
		err  error
		want *smtp.SMTPError
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
		{auth.ErrPenalty, replyAuthLater},
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
		want *smtp.SMTPError
	}{
		{smtp.ErrDataTooLarge, replyTooLarge},
		{message.ErrBareNewline, replyBareNewline},
		{fmt.Errorf("secret: %w", message.ErrNUL), replyNUL},
		{message.ErrLongLine, replyLongLine},
		{message.ErrHeaderTooLarge, replyLongHeader},
		{&message.StorageError{Err: errSecret}, replyNoStorage},
		{io.ErrUnexpectedEOF, replyCut},
		{smtp.ErrDataReset, replyCut},
		{os.ErrDeadlineExceeded, replyCut},
		{replyCut, replyCut},
		{errSecret, replyCut},
	} {
		if got := stageReply(test.err); got != test.want {
			t.Errorf("%v: %v", test.err, got)
		}
	}
}

func TestRelayReply(t *testing.T) {
	hop := &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "No such user"}
	for _, err := range []error{hop, fmt.Errorf("secret: %w", hop)} {
		if got := relayReply(err); got != hop {
			t.Errorf("%v: %v", err, got)
		}
	}
	closing := &smtp.SMTPError{Code: 421, EnhancedCode: smtp.EnhancedCode{4, 3, 2}, Message: "Shutting down"}
	if got := relayReply(closing); got.Code != 451 || got.Message != closing.Message || closing.Code != 421 {
		t.Errorf("%v: %v", closing, got)
	}
	for _, err := range []error{errSecret, &smtp.SMTPError{Code: 354, Message: "secret"}, &smtp.SMTPError{Code: 250}} {
		if got := relayReply(err); got != replyNoHop {
			t.Errorf("%v: %v", err, got)
		}
	}
}

func TestMessageReply(t *testing.T) {
	for err, want := range map[error]*smtp.SMTPError{
		replyLoop:                                  replyLoop,
		fmt.Errorf("secret: %w", replyLoop):        replyLoop,
		fmt.Errorf("secret: %w", io.ErrNoProgress): replyInternal,
	} {
		if got := messageReply(err); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}

func TestAccepted(t *testing.T) {
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
		got := accepted(test.text)
		if got.Code != 250 || got.EnhancedCode != test.code || got.Message != test.want {
			t.Errorf("%q: %v %v %q", test.text, got.Code, got.EnhancedCode, got.Message)
		}
	}
}

// TestRepliesAreDull: the class of the enhanced code is that of the code (RFC
// 2034, section 4), and a line with them fits into 512 octets (RFC 5321, section
// 4.5.3.1.5).
func TestRepliesAreDull(t *testing.T) {
	for _, r := range []*smtp.SMTPError{
		replyNeedTLS, replyNeedAuth, replyNestedMail, replyAuthInMail, replyBadSender, replyBadRecipient,
		replyNeedUTF8, replyMailMax, replyTooLarge, replyNoStorage, replyCut, replyBareNewline, replyNUL,
		replyLongLine, replyLongHeader, replyNoHop, replyBadCredentials, replyDisabled, replyExpired,
		replyAuthLater, replyMechanism, replyMalformedAuth, replyInternal, replyClosing, replyLoop,
	} {
		if r.EnhancedCode[0] != r.Code/100 {
			t.Errorf("%v has the enhanced code %v", r, r.EnhancedCode)
		}
		if r.Message == "" || len(r.Message) > 400 || strings.ContainsFunc(r.Message, isControl) {
			t.Errorf("%v has an odd text", r)
		}
	}
	for _, line := range []string{shuttingDown, tooManyErrors, tooManyFailures, tooManyClients, tooMuch, messageCutShort} {
		if !strings.HasPrefix(line, "421 4.") || strings.ContainsFunc(line, isControl) {
			t.Errorf("%q is no farewell", line)
		}
	}
}

func TestCause(t *testing.T) {
	reply := &smtp.SMTPError{Code: 550}
	if err := cause(reply); err != nil {
		t.Errorf("a bare reply has the cause %v", err)
	}
	if err := cause(fmt.Errorf("more: %w", reply)); err == nil {
		t.Error("what stands around a reply is lost")
	}
	if err := cause(errSecret); err != errSecret {
		t.Errorf("the cause is %v", err)
	}
}
