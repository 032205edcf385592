package dovecot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"postern/internal/fileperm"
)

// Check connects once more, apart from what is being served, and says what is
// wrong and what to do about it.
func (s *Store) Check(ctx context.Context) error {
	_, err := s.probe(ctx)
	return err
}

// probe connects and returns what is offered.
func (s *Store) probe(ctx context.Context) ([]mechanism, error) {
	c, err := connect(ctx, s.link.addr)
	if err != nil {
		return nil, s.link.addr.explain(err)
	}
	return c.greeting.mechanisms, c.net.Close()
}

// listener is what Dovecot needs. Postfix's own socket lies in a folder that only
// Postfix may enter, and it is better left to Postfix.
const listener = `let Dovecot listen on a socket for postern, beside the one of Postfix:

    service auth {
      unix_listener auth-postern {
        mode = 0660
        group = %s
      }
    }

and name it: path = "/run/dovecot/auth-postern"`

// explain adds to the error of a connection what to do about it.
func (a Address) explain(err error) error {
	op, ok := errors.AsType[*net.OpError](err)
	switch {
	case !ok || op.Op != "dial":
		return fmt.Errorf("%s: %w", a, err)
	case a.network == "tcp":
		return fmt.Errorf("%s: %w; start Dovecot, and let its service auth have an inet_listener there", a, err)
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; "+listener, fileperm.ExplainDial(op), fileperm.GroupName(os.Getegid()))
	}
	return fileperm.ExplainDial(op)
}
