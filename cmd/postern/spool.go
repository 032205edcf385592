package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"postern/cmd/postern/internal/config"
	"postern/cmd/postern/internal/process"
	"postern/relay"
	"postern/relay/spool"
)

// openSpool opens the spool at start. A reload keeps it: it is locked, by us,
// and deliveries are under way.
func (w *workshop) openSpool(cfg *config.Config) (err error) {
	if w.now != nil || cfg.Relay.Dir == "" {
		return nil
	}
	name, _ := os.Hostname() // without one, the reports come from localhost
	w.spool, err = spool.Open(cfg.Relay.Spool.Config, spool.Options{
		Bytes:    int64(cfg.Relay.SpoolSize),
		Hostname: cmp.Or(cfg.Server.Hostname, name, "localhost"),
		Origin:   cfg.Server.Origin,
		Events:   spool.NewLog(w.log.Logger),
	})
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w; make the folder, and give it to %s: install -d -m 0700 -o %[2]s %s",
			err, process.CurrentAccount().Name, cfg.Relay.Dir)
	}
	return err
}

// tendSpool lets the spool deliver from the first generation on, and gives it
// the limits of each.
func (w *workshop) tendSpool(cfg *config.Config) {
	switch {
	case w.spool == nil:
	case w.now == nil:
		w.spool.Deliver(
			func(string) (relay.NextHop, func()) { return w.route.take() },
			func(string) (relay.NextHop, func()) { return w.reports.take() })
	default:
		w.spool.Configure(cfg.Relay.Spool.Config, int64(cfg.Relay.SpoolSize))
	}
}

// closeSpool ends the deliveries; those under way have a few seconds.
func (w *workshop) closeSpool() {
	if w.spool != nil {
		w.closed("the spool", w.spool.Close())
	}
}
