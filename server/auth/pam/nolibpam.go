//go:build !pam

package pam

import "postern/server/auth/saslauthd"

// Available reports whether this program was built with libpam.
const Available = false

func authenticate(login, string) saslauthd.Answer { return tryAgain(ErrNotBuilt.Error()) }
