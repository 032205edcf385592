package dovecot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"postern/internal/authsocket"
	"postern/internal/fileperm"
)

// listener is the configuration that Dovecot needs. Postfix's own socket is in a folder
// that only Postfix may enter, so postern gets another one.
const listener = `let Dovecot listen on a socket for postern, in addition to Postfix's:

    service auth {
      unix_listener auth-postern {
        mode = 0660
        group = %s
      }
    }

and set path = "/run/dovecot/auth-postern"`

// explain adds the remedy to the error of a connection.
func (a Address) explain(err error) error {
	if e, ok := errors.AsType[*authsocket.NotSocketError](a.checkType()); ok {
		return explainNotSocket(e)
	}
	op, ok := errors.AsType[*net.OpError](err)
	switch {
	case !ok || op.Op != "dial":
		return err
	case a.network == "tcp":
		return fmt.Errorf("%s: %w; start Dovecot, and add an inet_listener with this port to its service auth", a, err)
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; %s", fileperm.ExplainDial(op), remedy())
	}
	return fileperm.ExplainDial(op)
}

func remedy() string { return fmt.Sprintf(listener, fileperm.GroupName(os.Getegid())) }

func (a Address) checkType() error {
	if a.network != "unix" {
		return nil
	}
	return authsocket.CheckType(a.addr)
}

// explainNotSocket names a socket for clients in a folder, if there is one.
func explainNotSocket(e *authsocket.NotSocketError) error {
	if e.Mode.IsDir() {
		for _, name := range []string{"auth-postern", "auth"} { // the second one is for Postfix, in its folder private
			path := filepath.Join(e.Path, name)
			if info, err := os.Stat(path); err == nil && info.Mode()&fs.ModeSocket != 0 {
				return fmt.Errorf("%w; set path = %q", e, path)
			}
		}
	}
	return fmt.Errorf("%w; %s", e, remedy())
}

// explainPeer is explain for a check, which may ask what else listens at the address if that
// did not complete Dovecot's greeting.
func (a Address) explainPeer(ctx context.Context, err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" || errors.Is(err, errNoMechanisms) || ctx.Err() != nil {
		return a.explain(err)
	}
	p, probeErr := authsocket.Probe(ctx, a.network, a.addr)
	switch {
	case probeErr != nil || p.Kind == authsocket.DovecotAuth:
		return err
	case p.Kind == authsocket.Saslauthd:
		return fmt.Errorf("%s is the socket of saslauthd, not of Dovecot's auth service; set kind = \"saslauthd\" and leave path as it is", a)
	case p.Kind != authsocket.Unknown:
		return fmt.Errorf("%s is the socket of %s, not one for clients of Dovecot's auth service; %s", a, p, remedy())
	case a.network == "unix" && (authsocket.Owner(a.addr) != "" || strings.HasPrefix(p.Process, `"dovecot"`)):
		return fmt.Errorf("%s is the socket of an internal service of Dovecot, not one for clients of its auth service; %s", a, remedy())
	case p.Silent:
		return fmt.Errorf("%s: %s sends no greeting, so it is not Dovecot's auth service; %s", a, p, remedy())
	}
	return err
}
