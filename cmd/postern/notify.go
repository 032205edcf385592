package main

import (
	"fmt"
	"log/slog"
	"strings"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"

	"postern/server"
)

// A manager is whoever started us and wants to know how we are: systemd, by
// the protocol of sd_notify(3). Where there is none (no NOTIFY_SOCKET in the
// environment), nothing is said.
type manager struct{ log *slog.Logger }

// ready says that clients are being served, at first and after each reload.
// status is for people: "systemctl status" shows it.
func (m manager) ready(status string) { m.say(systemd.SdNotifyReady, "STATUS="+status) }

// reloading comes before ready. Type=notify-reload tells by the time that it was
// this reload that became ready.
func (m manager) reloading() {
	m.say(systemd.SdNotifyReloading, fmt.Sprintf("MONOTONIC_USEC=%d", monotonic().Microseconds()))
}

func (m manager) stopping() {
	m.say(systemd.SdNotifyStopping, "STATUS=finishing transactions under way")
}

// alive is to be called at each tick of watchdog. A server that is stuck behind
// its own lock says nothing, and is started anew.
func (m manager) alive(s *server.Server) {
	_ = s.Addrs() // takes the lock
	m.say(systemd.SdNotifyWatchdog)
}

// watchdog ticks twice in the time after which the manager takes us for dead. It
// is nil, and never ticks, where nobody watches.
func (m manager) watchdog() (ticks <-chan time.Time, stop func()) {
	limit, err := systemd.SdWatchdogEnabled(false)
	if err != nil {
		m.log.Warn("no watchdog", "err", err)
	}
	if limit <= 0 {
		return nil, func() {}
	}
	t := time.NewTicker(limit / 2)
	return t.C, t.Stop
}

func (m manager) say(lines ...string) {
	if _, err := systemd.SdNotify(false, strings.Join(lines, "\n")); err != nil {
		m.log.Warn("cannot tell systemd", "what", lines[0], "err", err)
	}
}
