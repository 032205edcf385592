package main

import (
	"errors"
	"os"
	"path/filepath"
)

// A server is one way to run a submission service.
type server struct {
	name  string
	bare  bool // the floor: nothing but the handshake
	cache bool // a peer's authentication cache: of use for one who has logged in before
	start func(*site, *cage) (addr string, err error)
}

var servers = []server{
	{name: "floor", bare: true, start: startFloor},
	{name: "postern", start: startPostern},
	{name: "postfix+dovecot", start: func(s *site, c *cage) (string, error) {
		return startPostfix(s, c, func(dir string) (string, error) { return startDovecotAuth(s, c, dir, false) })
	}},
	{name: "postfix+dovecot-cache", cache: true, start: func(s *site, c *cage) (string, error) {
		return startPostfix(s, c, func(dir string) (string, error) { return startDovecotAuth(s, c, dir, true) })
	}},
	{name: "postfix+saslauthd", start: func(s *site, c *cage) (string, error) {
		return startPostfix(s, c, func(dir string) (string, error) { return startSaslauthd(s, c, dir) })
	}},
	{name: "postfix+saslauthd-c", cache: true, start: func(s *site, c *cage) (string, error) {
		return startPostfix(s, c, func(dir string) (string, error) { return startSaslauthd(s, c, dir, "-c") })
	}},
	{name: "dovecot", start: func(s *site, c *cage) (string, error) { return startDovecotSubmission(s, c, "1") }},
	{name: "dovecot-fast", start: func(s *site, c *cage) (string, error) { return startDovecotSubmission(s, c, "0") }},
}

func serverNames() []string {
	var names []string
	for _, s := range servers {
		names = append(names, s.name)
	}
	return names
}

func startFloor(s *site, c *cage) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	addr := freeAddr()
	return addr, c.start(s.path("floor.log"), self, "floor", addr, s.dir)
}

// Every default stays, but for what stands in the way of all clients coming
// from one address.
const posternConfig = `
[server]
hostname = "mx.example.org"
user = "nobody"
[server.limits]
connections_per_client = 10000
unauthenticated = 10000
[[listener]]
name = "submission"
address = ["{addr}"]
mode = "starttls"
[[tls.certificates]]
cert = "{site}/cert.pem"
key = "{site}/key.pem"
[[auth.stores]]
kind = "userfile"
path = "{site}/users"
[relay]
next_hops = ["smtp://{sink}"]
`

func startPostern(s *site, c *cage) (string, error) {
	dir, err := s.folder()
	if err != nil {
		return "", err
	}
	addr, conf := freeAddr(), filepath.Join(dir, "config.toml")
	return addr, errors.Join(
		fill(conf, posternConfig, "{addr}", addr, "{site}", s.dir, "{sink}", s.sink),
		c.start(filepath.Join(dir, "log"), s.postern, "serve", "--config", conf),
	)
}
