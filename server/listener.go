package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/pires/go-proxyproto"
)

const (
	proxyTimeout = 10 * time.Second // for a proxy to send its header
	maxPause     = time.Second      // between two attempts to accept
)

// A door is one listener: its sockets, and the service behind them, which a
// reload replaces.
type door struct {
	server   *Server
	listener Listener
	service  atomic.Pointer[service]
	gate     gate // for the listener's own limits
	sockets  []net.Listener
}

func (d *door) listen() error {
	if len(d.sockets) > 0 {
		return nil
	}
	for _, address := range d.listener.Address {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return fmt.Errorf("listener %q: %w", d.listener.Name, err)
		}
		d.sockets = append(d.sockets, l)
	}
	return nil
}

func (d *door) close() {
	for _, l := range d.sockets {
		_ = l.Close()
	}
}

// accept goes on whatever happens, but for a closed socket: a server that has
// run out of file descriptors must come back when there are some again.
func (d *door) accept(l net.Listener) {
	pause := time.Duration(0)
	for {
		raw, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			pause = min(max(2*pause, 5*time.Millisecond), maxPause)
			d.server.log.acceptFailed(d.listener.Name, err, pause)
			time.Sleep(pause)
		default:
			pause = 0
			d.welcome(raw)
		}
	}
}

// welcome brings a connection to the session. It does not wait for the
// client; only the header of a proxy is waited for, elsewhere.
func (d *door) welcome(raw net.Conn) {
	s := d.service.Load()
	peer := addrPort(raw.RemoteAddr()).Addr()
	if !trustedProxy(s.config.ProxyTrusted, peer) {
		d.admit(s, raw)
		return
	}
	// Nobody knows yet who it is, so it is not counted among those who have not
	// logged in: their crowd would keep out the clients whom the gate lets past it.
	t, _ := d.server.unannounced.enter(netip.Prefix{}, Limits{Unauthenticated: s.config.Limits.Unauthenticated})
	if t == nil {
		d.turnAway(s, raw, peer, "too many connections without their PROXY header")
		return
	}
	go func() {
		stop := context.AfterFunc(d.server.accepting, func() { _ = raw.Close() })
		client, err := readProxyHeader(raw)
		stop()
		t.leave()
		if err != nil {
			d.server.log.turnedAway(d.listener.Name, peer, err.Error())
			_ = raw.Close()
			return
		}
		d.admit(s, client)
	}()
}

func trustedProxy(trusted []netip.Prefix, peer netip.Addr) bool {
	for _, p := range trusted {
		if p.Contains(peer) {
			return true
		}
	}
	return false
}

// readProxyHeader reads the header that a trusted proxy must send, so that the
// log, the limits and the penalties see the client.
func readProxyHeader(raw net.Conn) (net.Conn, error) {
	c := proxyproto.NewConn(raw, proxyproto.WithPolicy(proxyproto.REQUIRE), proxyproto.SetReadHeaderTimeout(proxyTimeout))
	if c.ProxyHeader() == nil {
		return nil, errors.New("no valid PROXY header from a trusted proxy")
	}
	if !addrPort(c.RemoteAddr()).IsValid() {
		return nil, errors.New("the PROXY header names a client that has no TCP address")
	}
	return c, nil
}

// admit applies the limits and hands the connection to go-smtp.
func (d *door) admit(s *service, raw net.Conn) {
	client := addrPort(raw.RemoteAddr()).Addr()
	whole, reason := d.server.gate.enter(clientPrefix(client), s.config.Limits)
	if whole == nil && reason == tooManyStrangers && d.server.dropOldestStranger() {
		whole, reason = d.server.gate.enter(clientPrefix(client), s.config.Limits)
	}
	if whole == nil {
		d.turnAway(s, raw, client, reason)
		return
	}
	own, reason := d.gate.enter(clientPrefix(client), s.listener.Limits)
	if own == nil {
		whole.leave()
		d.turnAway(s, raw, client, reason)
		return
	}
	c := newConn(raw, s)
	c.admitted = func() {
		whole.admit()
		own.admit()
		d.server.known(c)
	}
	c.remember = func() {
		whole.remember()
		own.remember()
	}
	c.closed = func() {
		whole.leave()
		own.leave()
		d.server.remove(c)
	}
	if !d.server.add(c, whole.stranger) {
		whole.leave()
		own.leave()
		_ = raw.Close()
		return
	}
	c.log.connected()
	if s.listener.Mode == TLS {
		c.secure(s.tls)
	}
	s.serve(&wire{conn: c, service: s})
}

// turnAway refuses a connection before it costs anything. A client that
// expects TLS could not read a reason.
func (d *door) turnAway(s *service, raw net.Conn, client netip.Addr, reason string) {
	d.server.log.turnedAway(d.listener.Name, client, reason)
	if s.listener.Mode == STARTTLS {
		_ = raw.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
		_, _ = io.WriteString(raw, tooManyClients+"\r\n")
	}
	_ = raw.Close()
}
