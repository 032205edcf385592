package ldap

import (
	"errors"
	"strings"
	"testing"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"

	"postern/internal/ldapclient/ldaptest"
	"postern/server/auth"
)

func policy(code int8) []ldap.Control {
	c := ldap.NewControlBeheraPasswordPolicy()
	c.Error = code
	return []ldap.Control{c}
}

func windowsText(code string) string {
	return "80090308: LdapErr: DSID-0C09044E, comment: AcceptSecurityContext error, data " + code + ", v2580\x00"
}

func TestClassify(t *testing.T) {
	const invalid = ldap.LDAPResultInvalidCredentials
	tests := []struct {
		name   string
		answer bindAnswer
		want   string
	}{
		{"success", bindAnswer{}, "ok"},
		{"password soon expires", bindAnswer{controls: policy(-1)}, "ok"},
		{"must change", bindAnswer{controls: policy(2)}, "password expired"},
		{"must change, Netscape", bindAnswer{controls: []ldap.Control{&ldap.ControlVChuPasswordMustChange{}}}, "password expired"},
		{"invalid", bindAnswer{code: invalid}, "wrong password"},
		{"expired", bindAnswer{code: invalid, controls: policy(0)}, "password expired"},
		{"locked", bindAnswer{code: invalid, controls: policy(1)}, "wrong password"},
		{"Windows, wrong", bindAnswer{code: invalid, text: windowsText("52e")}, "wrong password"},
		{"Windows, password expired", bindAnswer{code: invalid, text: windowsText("532")}, "password expired"},
		{"Windows, must change", bindAnswer{code: invalid, text: windowsText("773")}, "password expired"},
		{"Windows, disabled", bindAnswer{code: invalid, text: windowsText("533")}, "account disabled"},
		{"Windows, account expired", bindAnswer{code: invalid, text: windowsText("701")}, "account disabled"},
		{"Windows, hours", bindAnswer{code: invalid, text: windowsText("530")}, "account disabled"},
		{"Windows, locked", bindAnswer{code: invalid, text: windowsText("775")}, "wrong password"},
		{"number without the text of Windows", bindAnswer{code: invalid, text: "data 533, v2580"}, "wrong password"},
		{"389, too many", bindAnswer{code: ldap.LDAPResultConstraintViolation, text: "Exceed password retry limit. Please try later."}, "wrong password"},
		{"389, inactivated", bindAnswer{code: ldap.LDAPResultUnwillingToPerform, text: "Account inactivated. Contact system administrator."}, "wrong password"},
		{"unwilling", bindAnswer{code: ldap.LDAPResultUnwillingToPerform, text: "server is read only"}, "temporary"},
		{"no password", bindAnswer{code: ldap.LDAPResultInappropriateAuthentication}, "wrong password"},
		{"gone", bindAnswer{code: ldap.LDAPResultNoSuchObject}, "refused"},
		{"no name", bindAnswer{code: ldap.LDAPResultInvalidDNSyntax}, "refused"},
		{"TLS required", bindAnswer{code: ldap.LDAPResultConfidentialityRequired}, "temporary"},
		{"busy", bindAnswer{code: ldap.LDAPResultBusy}, "temporary"},
		{"busy, expired", bindAnswer{code: ldap.LDAPResultBusy, controls: policy(0)}, "temporary"},
		{"SASL goes on", bindAnswer{code: ldap.LDAPResultSaslBindInProgress}, "temporary"},
		{"referral", bindAnswer{code: ldap.LDAPResultReferral}, "temporary"},
		{"other", bindAnswer{code: ldap.LDAPResultOther}, "temporary"},
		{"network", bindAnswer{code: ldap.ErrorNetwork}, "temporary"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var answer error
			if tt.answer.code != 0 {
				answer = &ldap.Error{ResultCode: tt.answer.code, Err: errors.New(tt.answer.text)}
			}
			err := tt.answer.classify(answer, auth.BadPassword)
			if got := strings.TrimSpace(outcome(auth.Identity{}, err)); got != tt.want {
				t.Errorf("%s (%v), want %s", got, err, tt.want)
			}
			if f, ok := errors.AsType[*auth.Failure](err); ok && strings.ContainsRune(f.Reason, 0) {
				t.Errorf("%q", f.Reason)
			}
		})
	}
}

// The control of an expired password is sent as OpenLDAP encodes it.
func TestExpiredPassword(t *testing.T) {
	expired := ber.NewSequence("")
	expired.AppendChild(ldaptest.Octets(ldap.ControlTypeBeheraPasswordPolicy))
	expired.AppendChild(ldaptest.Octets("\x30\x03\x81\x01\x00"))
	f := ldaptest.Start(t, func(c *ldaptest.Conn, q ldaptest.Request) {
		c.Done(q, ldap.LDAPResultInvalidCredentials, "", expired)
	})
	if got := verify(t, open(t, direct(t, f.URL())), "alice", "secret"); got != "password expired" {
		t.Error(got)
	}
}
