package saslauthd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"postern/internal/authsocket"
	"postern/internal/fileperm"
)

// muxes are the sockets of saslauthd on Debian and Fedora, in the chroot of Postfix, and
// where Cyrus SASL puts it without the option -m.
var muxes = []string{
	"/run/saslauthd/mux",
	"/var/spool/postfix/var/run/saslauthd/mux",
	"/var/spool/postfix/run/saslauthd/mux",
	"/var/state/saslauthd/mux",
	"/run/sasl2/mux",
}

// explainStore adds the cause to an error of Dial, and the next step for saslauthd.
func explainStore(path string, err error) error {
	if e, ok := errors.AsType[*authsocket.NotSocketError](authsocket.CheckType(path)); ok {
		return explainNotSocket(e)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return explainMissing(path, err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w; saslauthd is not running: run \"systemctl restart saslauthd\" as root", err)
	case errors.Is(err, syscall.EPROTOTYPE):
		return fmt.Errorf("%w; this socket takes datagrams, as the one of syslog: set path to saslauthd's socket, such as %q", err, muxes[0])
	}
	return err
}

// explainMissing names the socket of saslauthd that is somewhere else, if there is one.
func explainMissing(path string, err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = fmt.Errorf("cannot connect to saslauthd: %w; %s does not exist", op, fileperm.FirstMissing(path))
	}
	for _, mux := range append([]string{filepath.Join(filepath.Dir(path), "mux")}, muxes...) {
		if isSocket(mux) && mux != filepath.Clean(path) {
			return fmt.Errorf("%w, but saslauthd has its socket at %s: set path = %[2]q", err, mux)
		}
	}
	return fmt.Errorf("%w, since saslauthd is not running: run \"systemctl enable --now saslauthd\" as root; if it runs, set path to the socket mux "+
		"in the folder of its option -m (on Debian see OPTIONS in /etc/default/saslauthd)", err)
}

func isSocket(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&fs.ModeSocket != 0
}

// explainNotSocket names the socket in a folder, or beside a file, of saslauthd.
func explainNotSocket(e *authsocket.NotSocketError) error {
	dir := e.Path
	if !e.Mode.IsDir() {
		dir = filepath.Dir(e.Path)
	}
	mux := filepath.Join(dir, "mux")
	if isSocket(mux) {
		return fmt.Errorf("%w; set path = %q", e, mux)
	}
	if e.Mode.IsDir() {
		return fmt.Errorf("%w, and contains no socket of saslauthd; start saslauthd with the option -m %s, and set path = %q", e, dir, mux)
	}
	return fmt.Errorf("%w; set path to saslauthd's socket, such as %q", e, muxes[0])
}

// A foreignError is the answer of another daemon than saslauthd.
type foreignError struct {
	path string // may be empty
	peer authsocket.Peer
}

func (e *foreignError) Error() string {
	const dovecotPath = "; set kind = \"dovecot\", and path to a socket for clients of Dovecot's auth service, such as \"/run/dovecot/auth-postern\""
	what := fmt.Sprintf("this is the socket of %s, not of saslauthd", e.peer)
	if e.path != "" {
		what = e.path + " is the socket of " + e.peer.String() + ", not of saslauthd"
	}
	switch e.peer.Kind {
	case authsocket.DovecotAuth:
		if e.path != "" {
			return fmt.Sprintf("%s; set kind = \"dovecot\" and leave path as it is", what)
		}
		return what + "; set kind = \"dovecot\" for this store"
	case authsocket.DovecotMaster, authsocket.DovecotOther:
		return what + dovecotPath
	}
	return fmt.Sprintf("%s; set path to saslauthd's socket, such as %q", what, muxes[0])
}

// check sends an empty request, which saslauthd refuses at once, and returns an error if
// another daemon answers, or none does.
func check(ctx context.Context, conn net.Conn, path string) error {
	p := authsocket.Ask(ctx, conn)
	switch {
	case p.Kind == authsocket.Saslauthd:
		return nil
	case p.Kind != authsocket.Unknown:
		return &foreignError{path, p}
	case !p.Silent: // a daemon with the same protocol may close the connection
		return nil
	case authsocket.Owner(path) != "" || strings.HasPrefix(p.Process, `"dovecot"`):
		return fmt.Errorf("%s is the socket of an internal service of Dovecot, which does not answer saslauthd's requests; set kind = \"dovecot\", "+
			"and path to a socket for clients of Dovecot's auth service, such as \"/run/dovecot/auth-postern\"", path)
	}
	return fmt.Errorf("%s: %s does not answer requests in the protocol of saslauthd; if it is saslauthd, run \"systemctl restart saslauthd\" as root", path, p)
}

// explain adds the file or folder that prevents a connection, and the command that gives
// access.
func explain(path string, err error) error {
	err = fileperm.ExplainDial(err)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	blocker, ok := fileperm.FindBlocker(path, fileperm.Write)
	if !ok {
		blocker.Path = path
	}
	// Debian's /run/saslauthd has mode 0710 and belongs to root:sasl.
	if group := blocker.Group(nil); group != "" {
		return fmt.Errorf("%w; add the user to the group %s and restart postern; run as root: usermod -a -G %[2]s %s",
			err, group, fileperm.UserName(os.Geteuid()))
	}
	return fmt.Errorf("%w; give this user access to %s, or move the socket of the daemon", err, blocker.Path)
}
