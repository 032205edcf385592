package ldap

import (
	"errors"
	"regexp"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"postern/internal/text"
	"postern/server/auth"
)

// bindAnswer is what a server answers to the bind of a user.
type bindAnswer struct {
	code     uint16
	text     string // for people
	controls []ldap.Control
}

// judge turns the answer into nil, into a failure, or into err itself, which
// then means that nobody could tell. refused is the kind of a plain no.
func (a bindAnswer) judge(err error, refused auth.FailureKind) error {
	no := func(kind auth.FailureKind, reason string) error {
		return &auth.Failure{Kind: kind, Store: Kind, Reason: reason, Err: err}
	}
	// Both are said only after the password was found right.
	if a.passwordExpired() {
		return no(auth.Expired, clean(a.text))
	}
	switch a.code {
	case ldap.LDAPResultSuccess:
		return nil
	case ldap.LDAPResultInvalidCredentials:
		kind, reason := a.windows(refused)
		return no(kind, reason)
	case ldap.LDAPResultConstraintViolation:
		// 389 Directory Server, after too many wrong passwords; a right one
		// gets the same.
		return no(refused, "constraint violation: "+clean(a.text))
	case ldap.LDAPResultInappropriateAuthentication:
		return no(refused, "the entry has no password")
	case ldap.LDAPResultNoSuchObject, ldap.LDAPResultInvalidDNSyntax:
		return no(auth.Unknowable, "there cannot be such an entry")
	case ldap.LDAPResultUnwillingToPerform:
		// 389 Directory Server and FreeIPA, nsAccountLock; a wrong password may
		// get the same, and others mean other things by this code.
		if strings.Contains(strings.ToLower(a.text), "inactivated") {
			return no(refused, clean(a.text))
		}
	case ldap.LDAPResultConfidentialityRequired:
		return &misconfigured{"the server wants TLS before a password; write start_tls = true or ldaps://", err}
	}
	return err
}

// passwordExpired knows the control of draft-behera-ldap-password-policy
// (OpenLDAP, ApacheDS) and Netscape's (389 Directory Server): the password has
// expired, or must be changed after somebody has reset it.
func (a bindAnswer) passwordExpired() bool {
	if a.code != ldap.LDAPResultSuccess && a.code != ldap.LDAPResultInvalidCredentials {
		return false
	}
	for _, c := range a.controls {
		switch c := c.(type) {
		case *ldap.ControlBeheraPasswordPolicy:
			if c.Error == policyExpired || c.Error == policyChangeAfterReset {
				return true
			}
		case *ldap.ControlVChuPasswordMustChange:
			return true
		}
	}
	return false
}

// The errors of draft-behera-ldap-password-policy-10, section 6.2, that are
// about a right password. That of a locked account, 1, is not one of them.
const (
	policyExpired          = 0
	policyChangeAfterReset = 2
)

// windowsCode finds what Active Directory hides in the text of
// invalidCredentials: "80090308: LdapErr: DSID-..., comment:
// AcceptSecurityContext error, data 533, v2580".
var windowsCode = regexp.MustCompile(`AcceptSecurityContext error, data ([0-9a-fA-F]{1,8}),`)

// windows refines a plain no. Active Directory says that an account is disabled
// or expired only to one who has the right password, but that it is locked
// (775) to everybody.
func (a bindAnswer) windows(refused auth.FailureKind) (auth.FailureKind, string) {
	code := windowsCode.FindStringSubmatch(a.text)
	if code == nil {
		return refused, a.policyReason()
	}
	switch strings.ToLower(code[1]) {
	case "532", "773": // ERROR_PASSWORD_EXPIRED, ERROR_PASSWORD_MUST_CHANGE
		return auth.Expired, "Active Directory: " + code[1]
	case "533", "701": // ERROR_ACCOUNT_DISABLED, ERROR_ACCOUNT_EXPIRED
		return auth.Disabled, "Active Directory: " + code[1]
	case "530", "531": // ERROR_INVALID_LOGON_HOURS, ERROR_INVALID_WORKSTATION
		return auth.Disabled, "Active Directory does not allow it now, or from here: " + code[1]
	case "775": // ERROR_ACCOUNT_LOCKED_OUT
		return refused, "Active Directory: the account is locked"
	}
	return refused, "Active Directory: " + code[1]
}

// policyReason is for the log: a locked account looks like a wrong password.
func (a bindAnswer) policyReason() string {
	for _, c := range a.controls {
		if p, ok := c.(*ldap.ControlBeheraPasswordPolicy); ok && p.Error >= 0 {
			return "password policy: " + clean(p.ErrorString)
		}
	}
	return ""
}

// newBindAnswer takes apart what the library returns.
func newBindAnswer(result *ldap.SimpleBindResult, err error) bindAnswer {
	var a bindAnswer
	if result != nil {
		a.controls = result.Controls
	}
	if e, ok := errors.AsType[*ldap.Error](err); ok {
		a.code = e.ResultCode
		a.text = e.Err.Error()
	} else if err != nil {
		a.code = ldap.ErrorNetwork
	}
	return a
}

// answered reports whether err, or nil, is what a server in good health has
// said. Otherwise another server may know better.
func answered(err error) bool {
	if err == nil {
		return true
	}
	if _, ok := errors.AsType[*auth.Failure](err); ok {
		return true
	}
	if _, ok := errors.AsType[*misconfigured](err); ok {
		return true
	}
	e, ok := errors.AsType[*ldap.Error](err)
	// The library's own codes begin at 200.
	return ok && e.ResultCode < ldap.ErrorNetwork && e.ResultCode != ldap.LDAPResultBusy && e.ResultCode != ldap.LDAPResultUnavailable
}

// maxText is enough of what a server says, in bytes.
const maxText = 200

// clean makes a server's text safe for the log.
func clean(s string) string { return text.Shorten(text.Printable(s, -1), maxText) }
