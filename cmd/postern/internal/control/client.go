package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strings"
	"syscall"
	"time"
)

// ErrNoServer is wrapped by the error of Ask if no server listens at the path, or if this
// user may not ask it.
var ErrNoServer = errors.New("no server can be asked")

// Ask sends a command to the server at path and returns the lines of its answer. It ends with
// ctx.
func Ask(ctx context.Context, path, command string) ([]string, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: %w", ErrNoServer, err)
	case err != nil:
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := io.WriteString(conn, command+"\n"); err != nil {
		return nil, fmt.Errorf("the server at %s does not read: %w", path, err)
	}
	text, err := io.ReadAll(io.LimitReader(conn, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("the server at %s does not answer: %w", path, err)
	}
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if reason, failed := strings.CutPrefix(lines[0], "error "); failed {
		return nil, fmt.Errorf("the server at %s: %s", path, reason)
	}
	if lines[0] != "ok" {
		return nil, fmt.Errorf("the server at %s answered in another protocol", path)
	}
	return lines[1:], nil
}
