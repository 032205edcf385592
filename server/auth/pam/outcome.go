//go:build pam

package pam

import (
	"errors"

	"github.com/msteinert/pam/v2"

	"postern/server/auth"
	"postern/server/auth/saslauthd"
)

// ofAuthenticate is what an error of pam_authenticate means. The password has
// not been found right, but for one case: so nothing that is told only to its
// owner.
func ofAuthenticate(err error) saslauthd.Answer {
	var code pam.Error
	if !errors.As(err, &code) {
		return unsure("pam_authenticate: " + err.Error())
	}
	switch code {
	case pam.ErrUserUnknown:
		return no(auth.NoSuchUser, "")
	case pam.ErrAuth, // a wrong password or, behind pam_deny, an unknown user as well; pam_nologin; a lock ("passwd -l")
		pam.ErrMaxtries,    // a module counts, and has had enough: asking again does not help
		pam.ErrPermDenied,  // pam_access, pam_time, or no module has said yes
		pam.ErrAcctExpired: // a directory that looks at the account first, without a word on the password
		return no(auth.Unknowable, code.Error())
	case pam.ErrNewAuthtokReqd, // a directory that says "right, but change it"
		pam.ErrAuthtokExpired:
		return no(auth.Expired, code.Error())
	}
	// PAM_AUTHINFO_UNAVAIL, the LDAP server is down; PAM_SYSTEM_ERR and PAM_ABORT,
	// a broken service file or module; PAM_CRED_INSUFFICIENT, not root;
	// PAM_BUF_ERR, PAM_CONV_ERR, PAM_MODULE_UNKNOWN and all that may come:
	// nobody has looked at the password.
	return unsure("pam_authenticate: " + code.Error())
}

// ofAccount is what an error of pam_acct_mgmt means. The password was right.
func ofAccount(err error) saslauthd.Answer {
	var code pam.Error
	if !errors.As(err, &code) {
		return unsure("pam_acct_mgmt: " + err.Error())
	}
	switch code {
	case pam.ErrAcctExpired, // "chage -E"; pam_deny
		pam.ErrPermDenied, // pam_access, pam_time, pam_listfile: not this user, not here, not now
		pam.ErrAuth,       // pam_nologin, pam_shells, pam_succeed_if
		pam.ErrMaxtries:   // a module counts
		return no(auth.Disabled, code.Error())
	case pam.ErrNewAuthtokReqd, // too old ("chage -M"), or to be changed first ("chage -d 0")
		pam.ErrAuthtokExpired: // too old, and the time to change it is over ("chage -I")
		return no(auth.Expired, code.Error())
	case pam.ErrUserUnknown:
		// Users from one place and accounts from another: pam_pwdfile above
		// pam_unix. They do not get in, and the log says why.
		return no(auth.NoSuchUser, "the \"account\" modules do not know the user")
	}
	return unsure("pam_acct_mgmt: " + code.Error())
}
