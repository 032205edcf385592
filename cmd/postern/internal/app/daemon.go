package app

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"postern/cmd/postern/internal/config"
	"postern/cmd/postern/internal/control"
	"postern/cmd/postern/internal/logging"
	"postern/cmd/postern/internal/process"
	"postern/policy"
	"postern/server"
)

// A Daemon is the running server with its configuration.
type Daemon struct {
	File    string // the configuration file, which the sandbox has to allow; empty: no sandbox (demo)
	Version string // for the log

	load    func() (*config.Config, error)
	cfg     *config.Config // the newest one
	log     *logging.Log
	app     *App
	server  *server.Server
	control *control.Server // nil: there is no control socket
	status  atomic.Pointer[status]
	sandbox *process.Sandbox // nil: none was entered
	systemd process.Systemd
}

// NewDaemon returns a daemon with the configuration that load returns. Every reload
// calls load again. The caller must call Close.
func NewDaemon(load func() (*config.Config, error), stderr io.Writer) (*Daemon, error) {
	cfg, err := load()
	if err != nil {
		return nil, process.WithStatus(process.ExitConfig, err)
	}
	log, err := logging.Open(cfg.Log, stderr)
	if err != nil {
		return nil, err
	}
	return &Daemon{load: load, cfg: cfg, log: log, app: New(cfg, log), systemd: process.Systemd{Log: log.Logger}}, nil
}

// Config returns the newest configuration.
func (d *Daemon) Config() *config.Config { return d.cfg }

// Start binds every address, becomes the unprivileged user in its sandbox, and only then
// opens keys and stores: what can be opened now can be opened at the next reload, too.
// become is nil if the process keeps its user.
func (d *Daemon) Start(become *process.Account) error {
	d.log.Info("starting", "version", d.Version, "pid", os.Getpid())
	d.raiseLimits()
	if err := d.bind(); err != nil {
		return err
	}
	if err := d.openControl(become); err != nil {
		return err
	}
	if err := d.app.StartPAM(d.cfg); err != nil {
		return err
	}
	if err := d.drop(become); err != nil {
		return err
	}
	if err := d.confine(); err != nil {
		return err
	}
	g, err := d.app.Build(d.cfg)
	if err != nil {
		return err
	}
	d.app.warnOfFiles(d.cfg.Access(d.File))
	return d.server.Reload(d.app.Activate(g))
}

func (d *Daemon) raiseLimits() {
	limit, err := process.RaiseFileLimit()
	if err != nil {
		d.log.Warn("cannot raise the limit of open files", "err", err)
		return
	}
	// Besides its socket, a client may need a staged message and a connection to the
	// next hop.
	if most := uint64(d.cfg.Server.Limits.Connections); limit < most+most/4 {
		d.log.Warn("the limit of open files is low for so many connections; raise LimitNOFILE (systemd) or ulimit -Hn",
			"files", limit, "connections", most)
	}
}

// bind opens the sockets of a server that has no other parts yet. It serves no client before
// Start has given it those, so the lists of the configuration, and their tables, are not
// opened here: that would be done twice, and as root.
func (d *Daemon) bind() error {
	none, err := policy.NewSet(policy.Defaults(), &policy.Env{Resolver: net.DefaultResolver})
	if err != nil {
		return err
	}
	parts := server.Parts{Config: d.cfg.Server, Events: d.app.events.server}
	var names []string
	for i := range d.cfg.Listeners {
		l := &d.cfg.Listeners[i]
		names = append(names, l.Name)
		parts.Listeners = append(parts.Listeners, server.ListenerParts{Listener: l.Listener, Policy: none})
	}
	if parts.Sockets, err = process.InheritedSockets(names); err != nil {
		return process.WithStatus(process.ExitConfig, err)
	}
	if d.server, err = server.New(parts); err != nil {
		return err
	}
	return process.ExplainBind(d.server.Listen())
}

// drop becomes the unprivileged user, and checks that this user can read the
// configuration, as each reload must.
func (d *Daemon) drop(become *process.Account) error {
	if become == nil && d.cfg.Server.User != "" && os.Geteuid() != 0 {
		d.log.Info("not root, so server.user is left aside", "user", d.cfg.Server.User, "running_as", process.CurrentAccount().Name)
	}
	if err := process.DropPrivileges(become, d.log.Logger); err != nil {
		return err
	}
	if become == nil {
		return nil
	}
	_, err := d.load()
	return process.WithStatus(process.ExitConfig, err)
}

// confine gives up the privileges that the process needed until now.
func (d *Daemon) confine() error {
	if d.File == "" {
		return nil
	}
	if err := process.DropCapabilities(); err != nil {
		d.log.Warn("cannot give up the capabilities of the process; going on with them", "err", err)
	}
	return d.enterSandbox()
}

func (d *Daemon) enterSandbox() error {
	if !d.cfg.Server.Sandbox {
		d.log.Warn("no sandbox, as server.sandbox = false asks for: only the rights of its user restrict " +
			"what this process can open and connect to")
		return nil
	}
	d.sandbox = process.NewSandbox(d.cfg.Access(d.File))
	return d.sandbox.Enter(d.log.Logger)
}

// Run serves until SIGTERM, SIGINT or the end of ctx, and then drains. SIGHUP reloads.
func (d *Daemon) Run(ctx context.Context, signals <-chan os.Signal) error {
	served := make(chan error, 1)
	go func() { served <- d.server.Serve() }()
	d.serveControl()
	d.systemd.Ready("serving")
	watchdog, stopWatchdog := d.systemd.Watchdog()
	defer stopWatchdog()
	managing, stop := context.WithCancel(ctx)
	defer stop()
	go process.ManageMemory(managing)
	for {
		select {
		case <-watchdog:
			d.alive()
			continue
		case s := <-signals:
			if s == syscall.SIGHUP {
				d.reload()
				continue
			}
			d.log.Info("stopping", "signal", s.String())
		case <-ctx.Done():
			d.log.Info("stopping")
		case err := <-served:
			return err
		}
		d.setStatus(func(s *status) { s.stopping = true })
		d.systemd.Stopping()
		return errors.Join(d.drain(signals, watchdog), <-served)
	}
}

// alive resets the watchdog, unless a goroutine of the server never releases its lock:
// then systemd restarts the service.
func (d *Daemon) alive() {
	_ = d.server.Addrs() // takes the lock
	d.systemd.Alive()
}

// reload reads the configuration and all files that it names. Certificates, policy and
// limits apply to new connections; stores and next hops to open ones, too. If anything
// fails, nothing changes.
func (d *Daemon) reload() {
	d.log.Info("reloading")
	d.systemd.Reloading()
	cfg, err := d.load()
	if err == nil {
		err = d.replace(cfg)
	}
	if err != nil {
		d.log.Error("reload refused; the old configuration runs on", "err", err)
		d.setStatus(func(s *status) { s.refused = err })
		d.systemd.Ready("serving; the last reload was refused, see the log")
		return
	}
	d.setStatus(func(s *status) { s.cfg, s.refused = d.cfg, nil })
	d.log.Info("reloaded")
	d.systemd.Ready("serving")
}

func (d *Daemon) replace(cfg *config.Config) error {
	if err := d.sandbox.Allows(cfg.Access(d.File)); err != nil {
		return err
	}
	g, err := d.app.Build(cfg)
	if err != nil {
		return err
	}
	d.app.warnOfFiles(cfg.Access(d.File))
	if err := d.server.Reload(d.app.Activate(g)); err != nil {
		return err
	}
	d.warnRestartNeeded(cfg)
	d.cfg = cfg
	return nil
}

// warnRestartNeeded logs the keys that a reload cannot change. The server logs those of
// its listeners.
func (d *Daemon) warnRestartNeeded(cfg *config.Config) {
	for _, c := range []struct {
		key     string
		changed bool
	}{
		{"server.user", cfg.Server.User != d.cfg.Server.User},
		{"server.control", cfg.ControlPath() != d.cfg.ControlPath()},
		{"server.state_dir", cfg.StateDir() != d.cfg.StateDir()},
		{"server.sandbox", cfg.Server.Sandbox != d.cfg.Server.Sandbox},
		{"relay.spool", cfg.Relay.Dir != d.cfg.Relay.Dir},
		{"log.format", cfg.Log.Format != d.cfg.Log.Format},
		{"log.destination", cfg.Log.Destination != d.cfg.Log.Destination},
		{"log.syslog_name", cfg.Log.SyslogName != d.cfg.Log.SyslogName},
	} {
		if c.changed {
			d.log.Warn("restart needed", "key", c.key, "reason", "it has changed")
		}
	}
}

// drain lets transactions in flight finish. One that must be aborted has had no 250, so
// its client sends the message again: nothing is lost, and this is not a failure.
func (d *Daemon) drain(signals <-chan os.Signal, watchdog <-chan time.Time) error {
	ctx, cancel := context.WithTimeout(context.Background(), d.cfg.Server.ShutdownTimeout)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- d.server.Shutdown(ctx) }()
	for {
		select {
		case <-watchdog:
			d.alive()
		case s := <-signals:
			if s == syscall.SIGHUP {
				continue
			}
			d.log.Warn("second signal: ending at once", "signal", s.String())
			cancel()
		case aborted := <-done:
			if aborted != nil {
				d.log.Warn("stopped; some transactions were cut and will be sent again by their clients")
			} else {
				d.log.Info("stopped")
			}
			return nil
		}
	}
}

// Close closes what Start has opened, after Run or after an error of Start.
func (d *Daemon) Close() {
	if err := d.control.Close(); err != nil {
		d.log.Warn("cannot remove the control socket", "err", err)
	}
	d.app.Close()
	_ = d.log.Close() // there is no other log to report it to
}
