package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"

	"postern/server"
)

// inheritedSockets takes over the sockets that systemd has opened for us
// (sd_listen_fds(3)): FileDescriptorName= says for which listener. Nothing
// needs a privilege to bind them then, and clients that come while the server is
// started anew wait instead of being refused.
func inheritedSockets(listeners []server.Listener) (map[string][]net.Listener, error) {
	sockets := make(map[string][]net.Listener)
	var errs []error
	for _, f := range activation.Files(true) {
		l, err := inherit(f, listeners)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		sockets[f.Name()] = append(sockets[f.Name()], l)
	}
	if err := errors.Join(errs...); err != nil {
		for _, all := range sockets {
			for _, l := range all {
				_ = l.Close() // nothing is served
			}
		}
		return nil, withStatus(exitConfig, err)
	}
	return sockets, nil
}

// inherit closes f, of which a listener has its own copy.
func inherit(f *os.File, listeners []server.Listener) (net.Listener, error) {
	defer f.Close()
	var names []string
	for _, l := range listeners {
		names = append(names, l.Name)
	}
	if !slices.Contains(names, f.Name()) {
		return nil, fmt.Errorf("systemd passes a socket named %q, but no [[listener]] has that name; "+
			"write FileDescriptorName=%s into its .socket unit", f.Name(), `"`+strings.Join(names, `" or FileDescriptorName="`)+`"`)
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("the socket named %q that systemd passes cannot be listened on: %w", f.Name(), err)
	}
	if _, ok := l.(*net.TCPListener); !ok {
		return nil, errors.Join(fmt.Errorf("the socket named %q that systemd passes is not TCP: write ListenStream= "+
			"with a port into its .socket unit", f.Name()), l.Close())
	}
	return l, nil
}
