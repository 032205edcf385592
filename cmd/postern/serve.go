package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"postern/cmd/postern/internal/config"
	"postern/cmd/postern/internal/logging"
	"postern/cmd/postern/internal/process"
	"postern/server"
)

func serveCommand() *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the server",
		Long: `Runs in the foreground and logs to stderr, as systemd and Docker like it.

SIGHUP   reads the configuration again, with all files that it names
SIGTERM  (or SIGINT) takes no new connections, lets transactions in flight
         finish for server.shutdown_timeout, and ends; a second one ends at once`,
		Args: operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return serve(cmd.Context(), config, cmd.ErrOrStderr())
		},
	}
	configFlag(cmd, &config)
	return cmd
}

func serve(ctx context.Context, file string, stderr io.Writer) error {
	signals := process.CatchSignals()
	defer signal.Stop(signals)
	d, err := newDaemon(func() (*config.Config, error) { return loadConfig(file) }, stderr)
	if err != nil {
		return err
	}
	defer d.close()
	d.file = file
	become, err := process.ChooseAccount(d.cfg.Server.User)
	if err != nil {
		return process.WithStatus(process.ExitConfig, err)
	}
	if err := d.start(become); err != nil {
		return err
	}
	return d.run(ctx, signals)
}

// A daemon is the running server with its configuration.
type daemon struct {
	load   func() (*config.Config, error)
	cfg    *config.Config // the one in force
	log    *logging.Log
	shop   *workshop
	server *server.Server

	file    string           // the configuration file; "" means no sandbox (demo)
	sandbox *process.Sandbox // nil: none was entered
	systemd process.Systemd
}

func newDaemon(load func() (*config.Config, error), stderr io.Writer) (*daemon, error) {
	cfg, err := load()
	if err != nil {
		return nil, process.WithStatus(process.ExitConfig, err)
	}
	log, err := logging.Open(cfg.Log, stderr)
	if err != nil {
		return nil, err
	}
	return &daemon{load: load, cfg: cfg, log: log, shop: newWorkshop(cfg, log), systemd: process.Systemd{Log: log.Logger}}, nil
}

// start binds every address, becomes the unprivileged user in its sandbox, and
// only then opens keys and stores, so that what works now works at the next
// reload too.
func (d *daemon) start(become *process.Account) error {
	d.log.Info("starting", "version", versionString(), "pid", os.Getpid())
	d.raiseLimits()
	if err := d.bind(); err != nil {
		return err
	}
	if err := d.shop.startPAM(d.cfg); err != nil {
		return err
	}
	if err := d.drop(become); err != nil {
		return err
	}
	if err := d.confine(); err != nil {
		return err
	}
	g, err := d.shop.build(d.cfg)
	if err != nil {
		return err
	}
	return d.server.Reload(d.shop.adopt(g))
}

// bind opens the sockets of a server that has nothing to serve with yet.
func (d *daemon) bind() error {
	policies, err := newPolicies(d.cfg)
	if err != nil {
		return err
	}
	var names []string
	for _, l := range d.cfg.Listeners {
		names = append(names, l.Name)
	}
	sockets, err := process.InheritedSockets(names)
	if err != nil {
		return process.WithStatus(process.ExitConfig, err)
	}
	parts := server.Parts{Config: d.cfg.Server, Sockets: sockets, Events: d.shop.events}
	for _, l := range d.cfg.Listeners {
		parts.Listeners = append(parts.Listeners, server.ListenerParts{Listener: l, Policy: policies[l.Name]})
	}
	d.server, err = server.New(parts)
	if err != nil {
		return err
	}
	return explainListen(d.server.Listen())
}

// explainListen says what to do about a port that is not to be had.
func explainListen(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w; another server has this port: see \"ss -ltnp\", "+
			"and if it is Postfix, take submission and submissions out of its master.cf", err)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%w; ports below 1024 need root (with server.user) or CAP_NET_BIND_SERVICE, "+
			"which docs/systemd/postern.service has, or sockets that systemd opens (docs/systemd/postern.socket)", err)
	}
	return err
}

// drop becomes the unprivileged user, and proves that it can read the
// configuration: a SIGHUP will have to.
func (d *daemon) drop(become *process.Account) error {
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
func (d *daemon) confine() error {
	if d.file == "" {
		return nil
	}
	if err := process.DropCapabilities(); err != nil {
		d.log.Warn("cannot give up the capabilities of the process; going on with them", "err", err)
	}
	return d.enterSandbox()
}

func (d *daemon) enterSandbox() error {
	if !d.cfg.Server.Sandbox {
		d.log.Warn("no sandbox, as server.sandbox = false asks for: only the rights of its user restrict " +
			"what this process can open and connect to")
		return nil
	}
	d.sandbox = process.NewSandbox(d.cfg.Access(d.file))
	return d.sandbox.Enter(d.log.Logger)
}

func (d *daemon) raiseLimits() {
	limit, err := process.RaiseFileLimit()
	if err != nil {
		d.log.Warn("cannot raise the limit of open files", "err", err)
		return
	}
	// Besides its socket, a client may have a staged message and a connection
	// to the next hop.
	if most := uint64(d.cfg.Server.Limits.Connections); limit < most+most/4 {
		d.log.Warn("the limit of open files is low for so many connections; raise LimitNOFILE (systemd) or ulimit -Hn",
			"files", limit, "connections", most)
	}
}

// run serves until a signal or the end of ctx, and then drains.
func (d *daemon) run(ctx context.Context, signals <-chan os.Signal) error {
	served := make(chan error, 1)
	go func() { served <- d.server.Serve() }()
	d.systemd.Ready("serving")
	watchdog, stopWatchdog := d.systemd.Watchdog()
	defer stopWatchdog()
	idle, stop := context.WithCancel(ctx)
	defer stop()
	go process.ManageMemory(idle)
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
		d.systemd.Stopping()
		return errors.Join(d.drain(signals, watchdog), <-served)
	}
}

// alive resets the watchdog, unless a goroutine of the server keeps its lock for
// good: then systemd restarts the service.
func (d *daemon) alive() {
	_ = d.server.Addrs() // takes the lock
	d.systemd.Alive()
}

// drain lets transactions in flight finish. What has to be cut has had no 250,
// so its client sends it again: nothing is lost, and that is no failure.
func (d *daemon) drain(signals <-chan os.Signal, watchdog <-chan time.Time) error {
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
		case err := <-done:
			d.stopped(err)
			return nil
		}
	}
}

func (d *daemon) stopped(cut error) {
	if cut != nil {
		d.log.Warn("stopped; some transactions were cut and will be sent again by their clients")
		return
	}
	d.log.Info("stopped")
}

// close ends what run has left open, or what a failed start has opened.
func (d *daemon) close() {
	d.shop.close()
	_ = d.log.Close() // nobody is left to be told
}
