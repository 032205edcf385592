package ldap

import (
	"context"
	"errors"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"postern/internal/ldapclient"
	"postern/server/auth"
)

// bind checks the password of an entry. refused is the kind of a refusal without details.
func bind(ctx context.Context, c *ldapclient.Conn, dn, password string, refused auth.FailureKind) error {
	// RFC 4513, sections 5.1.1 and 5.1.2: a bind without a name or a password
	// succeeds without a check.
	if dn == "" || password == "" {
		return &auth.Failure{Kind: auth.BadPassword, Store: Kind, Reason: "empty name or password"}
	}
	answered := auth.Asking(ctx)
	result, err := c.Bind(dn, password, ldap.NewControlBeheraPasswordPolicy())
	if e, ok := errors.AsType[*ldap.Error](err); err == nil || ok && e.ResultCode < ldap.ErrorNetwork {
		answered()
	}
	return newBindAnswer(result, err).classify(err, refused)
}

// A bindAnswer is the response of a server to the bind of a user.
type bindAnswer struct {
	code     uint16
	text     string // diagnosticMessage
	controls []ldap.Control
}

// classify returns nil for success, a failure for a refusal, and otherwise a temporary
// error. refused is the kind of a refusal without details.
func (a bindAnswer) classify(err error, refused auth.FailureKind) error {
	failure := func(kind auth.FailureKind, reason string) error {
		return &auth.Failure{Kind: kind, Store: Kind, Reason: reason, Err: err}
	}
	if a.passwordExpired() {
		return failure(auth.Expired, ldapclient.Clean(a.text))
	}
	switch a.code {
	case ldap.LDAPResultSuccess:
		return nil
	case ldap.LDAPResultInvalidCredentials:
		kind, reason := a.activeDirectory(refused)
		// Active Directory counts each wrong password (badPwdCount), and locks the account
		// after a few. Another form of the password would count again.
		return &auth.Failure{Kind: kind, Store: Kind, Reason: reason, Err: err, Counted: ldapclient.WindowsError(a.text).Code != ""}
	case ldap.LDAPResultConstraintViolation:
		// 389 Directory Server, after too many wrong passwords, for the right
		// password, too.
		return failure(refused, "constraint violation: "+ldapclient.Clean(a.text))
	case ldap.LDAPResultInappropriateAuthentication:
		return failure(refused, "the entry has no password")
	case ldap.LDAPResultNoSuchObject, ldap.LDAPResultInvalidDNSyntax:
		return failure(auth.Unknowable, "no entry has this name")
	case ldap.LDAPResultUnwillingToPerform:
		// 389 Directory Server and FreeIPA, nsAccountLock. A wrong password may get
		// the same response, and other servers use this code for other errors.
		if strings.Contains(strings.ToLower(a.text), "inactivated") {
			return failure(refused, ldapclient.Clean(a.text))
		}
	case ldap.LDAPResultConfidentialityRequired, ldap.LDAPResultStrongAuthRequired:
		return &ldapclient.ConfigError{What: "the server accepts passwords only with TLS", Step: "set start_tls = true", Err: err}
	}
	return err
}

// passwordExpired reports whether the password is right but has expired, or must be changed
// after a reset. It reads the control of draft-behera-ldap-password-policy (OpenLDAP,
// ApacheDS) and Netscape's (389 Directory Server), which are sent only for the right
// password.
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

// The errors of draft-behera-ldap-password-policy-10, section 6.2, that are sent for the
// right password only. Error 1, a locked account, is not one of them.
const (
	policyExpired          = 0
	policyChangeAfterReset = 2
)

// activeDirectory returns the kind and the reason of invalidCredentials. Active Directory
// reports a disabled or expired account only for the right password, but a locked one
// (775) for every password.
func (a bindAnswer) activeDirectory(refused auth.FailureKind) (auth.FailureKind, string) {
	said := ldapclient.WindowsError(a.text)
	switch said.Code {
	case "":
		return refused, a.policyReason()
	case "525": // ERROR_NO_SUCH_USER
		if refused == auth.Unknowable {
			refused = auth.NoSuchUser
		}
	case "532", "773": // ERROR_PASSWORD_EXPIRED, ERROR_PASSWORD_MUST_CHANGE
		return auth.Expired, said.Reason
	case "530", "531", "533", "701": // ERROR_INVALID_LOGON_HOURS, ERROR_INVALID_WORKSTATION, ERROR_ACCOUNT_DISABLED, ERROR_ACCOUNT_EXPIRED
		return auth.Disabled, said.Reason
	}
	return refused, said.Reason
}

// policyReason returns the reason for the log. To the client a locked account looks like a
// wrong password.
func (a bindAnswer) policyReason() string {
	for _, c := range a.controls {
		if p, ok := c.(*ldap.ControlBeheraPasswordPolicy); ok && p.Error >= 0 {
			return "password policy: " + ldapclient.Clean(p.ErrorString)
		}
	}
	return ""
}

// newBindAnswer converts the result of the library.
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
