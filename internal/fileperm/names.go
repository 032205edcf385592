package fileperm

import (
	"os/user"
	"strconv"
	"strings"
)

// UserName returns the name of a user, or the number if there is none (a container with an
// arbitrary uid).
func UserName(uid int) string {
	id := strconv.Itoa(uid)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

// GroupName returns the name of a group, or the number if there is none.
func GroupName(gid int) string {
	id := strconv.Itoa(gid)
	if g, err := user.LookupGroupId(id); err == nil {
		return g.Name
	}
	return id
}

// ShellQuote returns s as one word of a POSIX shell.
func ShellQuote(s string) string {
	special := func(r rune) bool {
		return !strings.ContainsRune("%+,-./:=@_", r) && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	}
	if s != "" && !strings.ContainsFunc(s, special) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
