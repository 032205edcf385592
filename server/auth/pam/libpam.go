//go:build pam

package pam

/*
#cgo LDFLAGS: -lpam
#include <security/pam_appl.h>

static void no_delay(int status, unsigned int usec, void *data) {
	(void)status, (void)usec, (void)data;
}

static int skip_delay(pam_handle_t *pamh) {
#ifdef PAM_FAIL_DELAY
	return pam_set_item(pamh, PAM_FAIL_DELAY, (const void *)no_delay);
#else
	return PAM_SUCCESS;
#endif
}
*/
import "C"

import (
	"errors"
	"fmt"
	"reflect"

	"github.com/msteinert/pam/v2"

	"postern/internal/text"
	"postern/server/auth"
	"postern/server/auth/saslauthd"
)

// Available reports whether this program was built with libpam.
const Available = true

// authenticate runs a PAM transaction. dir is the folder of the service files; empty: that
// of libpam. It may hang, and so is called in a process for this login only.
func authenticate(l login, dir string) saslauthd.Answer {
	c := &conversation{login: l.name, password: l.password}
	tx, err := start(l, dir, c)
	if err != nil {
		return tryAgain(fmt.Sprintf("PAM service %q cannot be started: %v", l.service, err))
	}
	a := verify(tx, c)
	if err := tx.End(); err != nil && a.Verdict == saslauthd.OK {
		return tryAgain("pam_end: " + err.Error())
	}
	return a
}

func start(l login, dir string, c *conversation) (*pam.Transaction, error) {
	var tx *pam.Transaction
	var err error
	if dir == "" {
		tx, err = pam.Start(l.service, l.name, c)
	} else {
		tx, err = pam.StartConfDir(l.service, l.name, c, dir)
	}
	if err != nil {
		return nil, err
	}
	// Describe the client to the modules, as other daemons do: pam_access, pam_faillock and
	// the log use these items.
	errs := []error{
		tx.SetItem(pam.Tty, "postern"), // the name of the program, since there is no terminal
		tx.SetItem(pam.Ruser, l.name),
	}
	if l.client.IsValid() {
		errs = append(errs, tx.SetItem(pam.Rhost, l.client.String()))
	}
	if l.noDelay {
		errs = append(errs, skipDelay(tx))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, errors.Join(err, tx.End())
	}
	return tx, nil
}

// skipDelay switches off the delay of a failure, about two seconds that pam_unix requests
// and during which the child would occupy its slot. libpam calls a function of the
// application for the delay, PAM_FAIL_DELAY. Package pam cannot set an item that is a
// function, and does not export its handle, so the handle is read by reflection. A test
// fails if it is no longer there.
func skipDelay(tx *pam.Transaction) error {
	handle := reflect.ValueOf(tx).Elem().FieldByName("handle")
	if handle.Kind() != reflect.Pointer {
		return errors.New("the PAM library has no field for its handle")
	}
	if code := C.skip_delay((*C.pam_handle_t)(handle.UnsafePointer())); code != C.PAM_SUCCESS {
		return pam.Error(code)
	}
	return nil
}

// verify checks the password, and then whether its user may log in: without the account
// stage expired and locked accounts would be accepted.
func verify(tx *pam.Transaction, c *conversation) saslauthd.Answer {
	// An account without a password is refused.
	if err := tx.Authenticate(pam.Silent | pam.DisallowNullAuthtok); err != nil {
		if c.err != nil {
			return tryAgain(c.err.Error())
		}
		return ofAuthenticate(err)
	}
	if !c.asked {
		return tryAgain("PAM accepted the user without asking for the password; " +
			"remove pam_permit, pam_rootok and the like from the \"auth\" lines of the service")
	}
	if err := tx.AcctMgmt(pam.Silent | pam.DisallowNullAuthtok); err != nil {
		return ofAccount(err)
	}
	return canonical(tx)
}

// canonical accepts the login, with the user name that the modules have set.
func canonical(tx *pam.Transaction) saslauthd.Answer {
	user, err := tx.GetItem(pam.User)
	switch {
	case err != nil:
		return tryAgain("PAM_USER cannot be read: " + err.Error())
	case !text.ValidName(user, maxLogin):
		return tryAgain("PAM_USER is " + saslauthd.Clip(user) + ", which is not a valid user name")
	}
	return accept(user)
}

// ofAuthenticate returns the answer for an error of pam_authenticate. The password was not
// found right, except for one code, so the answer must not depend on the account.
func ofAuthenticate(err error) saslauthd.Answer {
	var code pam.Error
	if !errors.As(err, &code) {
		return tryAgain("pam_authenticate: " + err.Error())
	}
	switch code {
	case pam.ErrUserUnknown:
		return reject(auth.NoSuchUser, "")
	case pam.ErrAuth, // a wrong password or, with pam_deny, an unknown user; pam_nologin; a lock ("passwd -l")
		pam.ErrMaxtries,    // a module counts failures; another attempt would not help
		pam.ErrPermDenied,  // pam_access, pam_time, or no module has accepted the user
		pam.ErrAcctExpired: // a directory that checks the account before the password
		return reject(auth.Unknowable, code.Error())
	case pam.ErrNewAuthtokReqd, // a directory: the password is right and must be changed
		pam.ErrAuthtokExpired:
		return reject(auth.Expired, code.Error())
	}
	// PAM_AUTHINFO_UNAVAIL: the LDAP server is down. PAM_SYSTEM_ERR, PAM_ABORT: an
	// invalid service file or module. PAM_CRED_INSUFFICIENT: not root. PAM_BUF_ERR,
	// PAM_CONV_ERR, PAM_MODULE_UNKNOWN and new codes: the password was not checked.
	return tryAgain("pam_authenticate: " + code.Error())
}

// ofAccount returns the answer for an error of pam_acct_mgmt. The password is right.
func ofAccount(err error) saslauthd.Answer {
	var code pam.Error
	if !errors.As(err, &code) {
		return tryAgain("pam_acct_mgmt: " + err.Error())
	}
	switch code {
	case pam.ErrAcctExpired, // "chage -E"; pam_deny
		pam.ErrPermDenied, // pam_access, pam_time, pam_listfile: the user, the host or the time is not allowed
		pam.ErrAuth,       // pam_nologin, pam_shells, pam_succeed_if
		pam.ErrMaxtries:   // a module counts failures
		return reject(auth.Disabled, code.Error())
	case pam.ErrNewAuthtokReqd, // too old ("chage -M"), or to be changed first ("chage -d 0")
		pam.ErrAuthtokExpired: // too old, and the time to change it is over ("chage -I")
		return reject(auth.Expired, code.Error())
	case pam.ErrUserUnknown:
		// The users are in one place and the accounts in another, as with
		// pam_pwdfile for "auth" and pam_unix for "account".
		return reject(auth.NoSuchUser, "the \"account\" modules do not know the user")
	}
	return tryAgain("pam_acct_mgmt: " + code.Error())
}

// errBinary is the error of a module that needs its own client program.
var errBinary = errors.New("a PAM module sends a binary prompt, which mail clients cannot answer")

// A conversation answers the prompts of the modules. A mail client has sent one password, so
// a prompt for a second factor is a temporary error.
type conversation struct {
	login, password string

	asked  bool   // a module has asked for the password
	prompt string // with this text
	err    error  // of a prompt that has no answer
}

// RespondPAM implements pam.ConversationHandler.
func (c *conversation) RespondPAM(style pam.Style, text string) (string, error) {
	switch style {
	case pam.PromptEchoOff:
		return c.secret(text)
	case pam.PromptEchoOn:
		return c.login, nil
	case pam.ErrorMsg, pam.TextInfo:
		return "", nil
	}
	c.err = errBinary
	return "", c.err
}

// secret returns the password, again for the same prompt: a stack of modules without
// use_first_pass repeats it.
func (c *conversation) secret(prompt string) (string, error) {
	if c.asked && prompt != c.prompt {
		c.err = fmt.Errorf("PAM asks for more than a password: %s; mail clients have no second factor, "+
			"so use a PAM service without one for them", saslauthd.Clip(prompt))
		return "", c.err
	}
	c.asked, c.prompt = true, prompt
	return c.password, nil
}
