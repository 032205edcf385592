package main

import "postern/cmd/postern/internal/config"

// reload reads the configuration again, and all files that it names, for the
// connections that come from now on. Stores and next hops serve open sessions
// too. If anything is wrong, nothing changes.
func (d *daemon) reload() {
	d.log.Info("reloading")
	d.systemd.Reloading()
	cfg, err := d.load()
	if err == nil {
		err = d.renew(cfg)
	}
	if err != nil {
		d.log.Error("reload refused; the old configuration runs on", "err", err)
		d.systemd.Ready("serving; the last reload was refused, see the log")
		return
	}
	d.log.Info("reloaded")
	d.systemd.Ready("serving")
}

func (d *daemon) renew(cfg *config.Config) error {
	if err := d.sandbox.Allows(cfg.Access(d.file)); err != nil {
		return err
	}
	g, err := d.shop.build(cfg)
	if err != nil {
		return err
	}
	if err := d.server.Reload(d.shop.adopt(g)); err != nil {
		return err
	}
	d.tellOfRestart(cfg)
	d.cfg = cfg
	return nil
}

// tellOfRestart names what a reload cannot change. The server itself speaks
// of the addresses of its listeners.
func (d *daemon) tellOfRestart(cfg *config.Config) {
	for _, c := range []struct {
		key     string
		changed bool
	}{
		{"server.user", cfg.Server.User != d.cfg.Server.User},
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
