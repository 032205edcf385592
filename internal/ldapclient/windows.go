package ldapclient

import (
	"fmt"
	"regexp"
	"strings"
)

// A Windows error is the code that Active Directory writes into the text of invalidCredentials
// ([MS-ERREF], section 2.2):
//
//	80090308: LdapErr: DSID-0C090439, comment: AcceptSecurityContext error, data 52e, v4563
type Windows struct {
	Code   string // hexadecimal digits in lower case; empty if the text has none
	Reason string // for the log; empty together with Code
}

var windowsCode = regexp.MustCompile(`AcceptSecurityContext error, data ([0-9a-fA-F]{1,8})\b`)

// windowsReasons are the reasons in the words of Active Directory's administrators.
var windowsReasons = map[string]string{
	"525": "the account does not exist",
	"52e": "the password is wrong",
	"530": "the account may not log in at this time (logonHours)",
	"531": "the account may not log in from this machine (userWorkstations)",
	"532": "the password has expired",
	"533": "the account is disabled",
	"568": "the account is in too many groups",
	"701": "the account has expired",
	"773": "the user must set a new password",
	"775": "the account is locked after too many wrong passwords",
}

// WindowsError returns the code in the text of a refused bind.
func WindowsError(text string) Windows {
	m := windowsCode.FindStringSubmatch(text)
	if m == nil {
		return Windows{}
	}
	code := strings.ToLower(m[1])
	reason := windowsReasons[code]
	if reason == "" {
		reason = "refused"
	}
	return Windows{code, fmt.Sprintf("Active Directory: %s (data %s)", reason, code)}
}

// step is what to do about the service account, whose password is in file.
func (w Windows) step(file string) string {
	switch w.Code {
	case "525":
		return "correct bind_dn"
	case "52e":
		return fmt.Sprintf("correct bind_dn, or write its password into %s", file)
	case "532", "773":
		return fmt.Sprintf("set a new password of the account, and write it into %s", file)
	}
	return "correct the account in Active Directory"
}
