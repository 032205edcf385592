package process

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	systemd "github.com/coreos/go-systemd/v22/daemon"
)

// A Systemd reports the state of the service to systemd, by the protocol of
// sd_notify(3). Without NOTIFY_SOCKET in the environment its methods do nothing.
type Systemd struct{ Log *slog.Logger }

// Ready reports that clients are being served, at start and after each reload.
// "systemctl status" shows status.
func (s Systemd) Ready(status string) { s.notify(systemd.SdNotifyReady, "STATUS="+status) }

// Reloading precedes the Ready of a reload. Type=notify-reload assigns that Ready
// to this reload by the time.
func (s Systemd) Reloading() {
	s.notify(systemd.SdNotifyReloading, fmt.Sprintf("MONOTONIC_USEC=%d", monotonic().Microseconds()))
}

// Stopping reports that the server shuts down.
func (s Systemd) Stopping() {
	s.notify(systemd.SdNotifyStopping, "STATUS=finishing transactions in flight")
}

// Alive resets the watchdog. The caller does so at each of its ticks.
func (s Systemd) Alive() { s.notify(systemd.SdNotifyWatchdog) }

// Watchdog returns a channel that ticks twice in the time after which systemd
// restarts the service. It is nil, and never ticks, if there is no watchdog.
func (s Systemd) Watchdog() (ticks <-chan time.Time, stop func()) {
	limit, err := systemd.SdWatchdogEnabled(false)
	if err != nil {
		s.Log.Warn("no watchdog", "err", err)
	}
	if limit <= 0 {
		return nil, func() {}
	}
	t := time.NewTicker(limit / 2)
	return t.C, t.Stop
}

func (s Systemd) notify(lines ...string) {
	if _, err := systemd.SdNotify(false, strings.Join(lines, "\n")); err != nil {
		s.Log.Warn("cannot tell systemd", "what", lines[0], "err", err)
	}
}

// InheritedSockets returns the sockets that systemd has opened for this process
// (sd_listen_fds(3)). FileDescriptorName= is the name of their listener, one of
// names. The process needs no privilege for such ports, and clients that connect
// while the server restarts wait instead of being refused.
func InheritedSockets(names []string) (map[string][]net.Listener, error) {
	sockets := make(map[string][]net.Listener)
	var errs []error
	for _, f := range activation.Files(true) {
		l, err := inherit(f, names)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		sockets[f.Name()] = append(sockets[f.Name()], l)
	}
	if err := errors.Join(errs...); err != nil {
		for _, all := range sockets {
			for _, l := range all {
				_ = l.Close() // err is the reason to report
			}
		}
		return nil, err
	}
	return sockets, nil
}

// inherit makes a listener of f. It closes f, which the listener has a copy of.
func inherit(f *os.File, names []string) (net.Listener, error) {
	defer f.Close()
	if !slices.Contains(names, f.Name()) {
		var allowed []string
		for _, name := range names {
			allowed = append(allowed, fmt.Sprintf("FileDescriptorName=%q", name))
		}
		return nil, fmt.Errorf("systemd passes a socket named %q, but no [[listener]] has that name; "+
			"write %s into its .socket unit", f.Name(), strings.Join(allowed, " or "))
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on the socket named %q that systemd passes: %w", f.Name(), err)
	}
	if _, ok := l.(*net.TCPListener); !ok {
		return nil, errors.Join(fmt.Errorf("the socket named %q that systemd passes is not a TCP socket; write ListenStream= "+
			"with a port into its .socket unit", f.Name()), l.Close())
	}
	return l, nil
}
