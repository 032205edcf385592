package main

import (
	"crypto/tls"
	"net"
	"path/filepath"
	"time"
)

// floors are the servers that this program runs itself, in a process of their
// own: "bench NAME ADDRESS FOLDER". Each is called once for each connection and
// closes it.
var floors = map[string]func(net.Conn, *tls.Config){
	"floor": shakeHands,
	"rote":  serveRote,
}

// serveFloor accepts connections at addr until the process is killed. The
// folder has the certificate.
func serveFloor(serve func(net.Conn, *tls.Config), addr, dir string) error {
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
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go serve(conn, config)
	}
}

// shakeHands is the least that any server does for a client: the handshake.
func shakeHands(conn net.Conn, config *tls.Config) {
	c := tls.Server(conn, config)
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	_ = c.Handshake() // a failure is an error at the client, too, which counts it
	_ = c.Close()
}
