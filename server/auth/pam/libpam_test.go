//go:build pam

package pam

import (
	"errors"
	"testing"

	"github.com/msteinert/pam/v2"

	"postern/server/auth"
	"postern/server/auth/saslauthd"
)

// Every error of libpam has an answer that does not accept the login.
func TestOutcomes(t *testing.T) {
	const later = "temporary"
	tests := []struct {
		code         pam.Error
		authenticate string
		account      string
	}{
		{pam.ErrAuth, auth.Unknowable.String(), auth.Disabled.String()},
		{pam.ErrMaxtries, auth.Unknowable.String(), auth.Disabled.String()},
		{pam.ErrPermDenied, auth.Unknowable.String(), auth.Disabled.String()},
		{pam.ErrAcctExpired, auth.Unknowable.String(), auth.Disabled.String()},
		{pam.ErrUserUnknown, auth.NoSuchUser.String(), auth.NoSuchUser.String()},
		{pam.ErrNewAuthtokReqd, auth.Expired.String(), auth.Expired.String()},
		{pam.ErrAuthtokExpired, auth.Expired.String(), auth.Expired.String()},
		{pam.ErrAuthinfoUnavail, later, later},
		{pam.ErrCredInsufficient, later, later},
		{pam.ErrSystem, later, later},
		{pam.ErrAbort, later, later},
		{pam.ErrBuf, later, later},
		{pam.ErrConv, later, later},
		{pam.ErrService, later, later},
		{pam.ErrOpen, later, later},
		{pam.ErrSymbol, later, later},
		{pam.ErrModuleUnknown, later, later},
		{pam.ErrIgnore, later, later},
		{pam.ErrIncomplete, later, later},
		{pam.ErrConvAgain, later, later},
		{pam.ErrTryAgain, later, later},
		{pam.ErrBadItem, later, later},
		{pam.Error(4711), later, later},
	}
	for _, tt := range tests {
		if got := kindOf(ofAuthenticate(tt.code)); got != tt.authenticate {
			t.Errorf("pam_authenticate, %d: %s, want %s", tt.code, got, tt.authenticate)
		}
		if got := kindOf(ofAccount(tt.code)); got != tt.account {
			t.Errorf("pam_acct_mgmt, %d: %s, want %s", tt.code, got, tt.account)
		}
	}
	other := errors.New("not a code of PAM")
	if kindOf(ofAuthenticate(other)) != later || kindOf(ofAccount(other)) != later {
		t.Error("an error without a code is not temporary")
	}
}

func kindOf(a saslauthd.Answer) string {
	_, err := identity(a)
	if f, ok := errors.AsType[*auth.Failure](err); ok {
		return f.Kind.String()
	}
	if err != nil {
		return "temporary"
	}
	return "accepted"
}

func TestConversation(t *testing.T) {
	c := &conversation{login: "alice", password: "sesame"}
	for _, q := range []struct {
		style  pam.Style
		text   string
		answer string
	}{
		{pam.TextInfo, "Welcome", ""},
		{pam.PromptEchoOn, "login: ", "alice"},
		{pam.PromptEchoOff, "Password: ", "sesame"},
		{pam.ErrorMsg, "You have mail", ""},
		{pam.PromptEchoOff, "Password: ", "sesame"}, // of another module
	} {
		if got, err := c.RespondPAM(q.style, q.text); got != q.answer || err != nil {
			t.Errorf("%q: %q, %v", q.text, got, err)
		}
	}
	if got, err := c.RespondPAM(pam.PromptEchoOff, "Verification code: "); got != "" || err == nil || c.err == nil {
		t.Errorf("a second factor: %q, %v", got, err)
	}
	if got, err := c.RespondPAM(pam.BinaryPrompt, ""); got != "" || err == nil {
		t.Errorf("a binary prompt: %q, %v", got, err)
	}
}

// skipDelay finds the handle of the library by reflection, and fails if it has moved.
func TestSkipDelay(t *testing.T) {
	tx, err := pam.Start("postern-test", "alice", &conversation{})
	if err != nil {
		t.Fatal(err)
	}
	defer tx.End()
	if err := skipDelay(tx); err != nil {
		t.Error(err)
	}
}
