package app

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"postern/cmd/postern/internal/config"
	"postern/cmd/postern/internal/control"
	"postern/cmd/postern/internal/process"
)

// A status is what the control socket answers about the process. It is immutable.
type status struct {
	cfg      *config.Config // of the newest generation
	refused  error          // of the last reload; nil if it succeeded
	stopping bool
}

// setStatus changes the status. It is called by the goroutine of Run only.
func (d *Daemon) setStatus(change func(*status)) {
	s := status{cfg: d.cfg}
	if before := d.status.Load(); before != nil {
		s = *before
	}
	change(&s)
	d.status.Store(&s)
}

// openControl opens the control socket, for the user that the process becomes. If its path is
// not configured, the server runs without it after an error.
func (d *Daemon) openControl(become *process.Account) error {
	path := d.cfg.ControlPath()
	if path == "" {
		return nil
	}
	uid, gid := -1, -1
	if become != nil {
		uid, gid = become.UID, become.GID
	}
	var err error
	d.control, err = control.Listen(path, uid, gid)
	switch {
	case err == nil || d.cfg.Server.Control != "":
		return err
	case errors.Is(err, control.ErrInUse):
		d.log.Info("no control socket, because another server has it; set server.control to another path for one", "path", path)
	default:
		d.log.Info("no control socket", "path", path, "err", err)
	}
	return nil
}

func (d *Daemon) serveControl() {
	d.setStatus(func(s *status) { s.cfg = d.cfg })
	if d.control != nil {
		d.control.Serve(map[string]control.Handler{"health": d.health})
	}
}

// health answers with what "postern health" needs for connecting to the first listener as it
// is, and not as the file has it now.
func (d *Daemon) health() ([]string, error) {
	_ = d.server.Addrs() // waits if a goroutine of the server never releases its lock
	s := d.status.Load()
	if s.stopping {
		return nil, errors.New("it is stopping")
	}
	l := s.cfg.Listeners[0]
	lines := []string{fmt.Sprintf("listener %s %s", l.Mode, l.Address[0])}
	if file, err := filepath.Abs(d.File); err == nil && d.File != "" {
		lines = append(lines, "config "+file)
	}
	for _, network := range s.cfg.Server.ProxyTrusted {
		lines = append(lines, "proxy_trusted "+network.String())
	}
	if s.refused != nil {
		why, _, _ := strings.Cut(s.refused.Error(), "\n") // the log has the rest
		lines = append(lines, "refused "+why)
	}
	return lines, nil
}
