//go:build pam

package pam

// Available says whether this program was built with libpam.
const Available = true
