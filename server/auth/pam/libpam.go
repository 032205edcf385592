//go:build pam

package pam

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/msteinert/pam/v2"

	"postern/server/auth/saslauthd"
)

// authenticate asks PAM. dir holds the service files; empty: where libpam looks.
// It may take for ever, and is for a process of its own.
func authenticate(q question, dir string) saslauthd.Answer {
	c := &conversation{login: q.login, password: q.password}
	tx, err := start(q, dir, c)
	if err != nil {
		return unsure(fmt.Sprintf("PAM service %q cannot be started: %v", q.service, err))
	}
	a := judge(tx, c)
	if err := tx.End(); err != nil && a.Verdict == saslauthd.OK {
		return unsure("pam_end: " + err.Error())
	}
	return a
}

func start(q question, dir string, c *conversation) (*pam.Transaction, error) {
	var tx *pam.Transaction
	var err error
	if dir == "" {
		tx, err = pam.Start(q.service, q.login, c)
	} else {
		tx, err = pam.StartConfDir(q.service, q.login, c, dir)
	}
	if err != nil {
		return nil, err
	}
	if err := describe(tx, q); err != nil {
		return nil, errors.Join(err, tx.End())
	}
	return tx, nil
}

// describe tells the modules who asks, as other daemons do: pam_access,
// pam_faillock and what is logged go by it.
func describe(tx *pam.Transaction, q question) error {
	errs := []error{
		tx.SetItem(pam.Tty, "postern"), // no terminal: the name of the program, for want of one
		tx.SetItem(pam.Ruser, q.login),
	}
	if q.client.IsValid() {
		errs = append(errs, tx.SetItem(pam.Rhost, q.client.String()))
	}
	if q.atOnce {
		errs = append(errs, skipDelay(tx))
	}
	return errors.Join(errs...)
}

// judge asks the two questions: is it the right password, and may its owner come
// in? Without the second, expired and locked accounts would.
func judge(tx *pam.Transaction, c *conversation) saslauthd.Answer {
	// A password is asked for in any case, so an account without one is none.
	if err := tx.Authenticate(pam.Silent | pam.DisallowNullAuthtok); err != nil {
		if c.err != nil {
			return unsure(c.err.Error())
		}
		return ofAuthenticate(err)
	}
	if !c.asked {
		return unsure("PAM let the user in without asking for the password; " +
			"take pam_permit, pam_rootok and the like out of the service's \"auth\" lines")
	}
	if err := tx.AcctMgmt(pam.Silent | pam.DisallowNullAuthtok); err != nil {
		return ofAccount(err)
	}
	return canonical(tx)
}

// canonical is the yes for whom PAM says it was.
func canonical(tx *pam.Transaction) saslauthd.Answer {
	user, err := tx.GetItem(pam.User)
	switch {
	case err != nil:
		return unsure("PAM_USER cannot be read: " + err.Error())
	case user == "" || len(user) > maxLogin || !utf8.ValidString(user) || strings.ContainsFunc(user, unicode.IsControl):
		return unsure("PAM_USER is " + saslauthd.Clip(user) + ", which is no name of a user")
	}
	return yes(user)
}
