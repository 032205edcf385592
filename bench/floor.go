package main

import (
	"crypto/tls"
	"net"
	"path/filepath"
	"time"
)

// serveFloor is the least that any server does for a client: it accepts, shakes
// hands and hangs up.
func serveFloor(addr, dir string) error {
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	config := &tls.Config{Certificates: []tls.Certificate{cert}}
	for {
		raw, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			c := tls.Server(raw, config)
			_ = c.SetDeadline(time.Now().Add(time.Minute))
			_ = c.Handshake() // the client knows best whether it came about
			_ = c.Close()
		}()
	}
}
