//go:build !pam

package pam

import "postern/server/auth/saslauthd"

// Available says whether this program was built with libpam.
const Available = false

func authenticate(question, string) saslauthd.Answer { return unsure(ErrNotBuilt.Error()) }
