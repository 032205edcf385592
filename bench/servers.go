package main

import (
	"errors"
	"os"
	"path/filepath"
)

// A server is one way to run a submission service.
type server struct {
	name  string // on the command line
	title string // in the report
	start func(*site, *cgroup) (addr string, err error)

	postern bool // it is the program of -postern
	floor   bool // a lower bound of the cost, not a server to use
	bare    bool // a floor that does the handshake only: it takes part where floors do
	variant bool // it differs from a server before it in repeated logins only
}

var servers = []server{
	{name: "floor", title: "floor", floor: true, bare: true, start: startFloor("floor")},
	{name: "rote", title: "rote", floor: true, start: startFloor("rote")},
	{name: "postern", title: "postern", postern: true, start: func(s *site, c *cgroup) (string, error) {
		return startPostern(s, c, "")
	}},
	{name: "postern-no-tickets", title: "postern, session tickets off", postern: true, variant: true, start: func(s *site, c *cgroup) (string, error) {
		return startPostern(s, c, "[tls]\nsession_tickets = false")
	}},
	{name: "postfix+dovecot", title: "Postfix + Dovecot auth", start: func(s *site, c *cgroup) (string, error) {
		return startPostfix(s, c, func(dir string) (string, error) { return startDovecotAuth(s, c, dir, "0") })
	}},
	{name: "postfix+dovecot-cache", title: "Postfix + Dovecot auth, its cache on", variant: true, start: func(s *site, c *cgroup) (string, error) {
		return startPostfix(s, c, func(dir string) (string, error) { return startDovecotAuth(s, c, dir, dovecotCache) })
	}},
	{name: "postfix+saslauthd", title: "Postfix + saslauthd (PAM)", start: func(s *site, c *cgroup) (string, error) {
		return startPostfix(s, c, func(dir string) (string, error) { return startSaslauthd(s, c, dir) })
	}},
	{name: "postfix+saslauthd-c", title: "Postfix + saslauthd -c", variant: true, start: func(s *site, c *cgroup) (string, error) {
		return startPostfix(s, c, func(dir string) (string, error) { return startSaslauthd(s, c, dir, "-c") })
	}},
	{name: "dovecot", title: "Dovecot submission", start: func(s *site, c *cgroup) (string, error) {
		return startDovecotSubmission(s, c, logins{each: 1, processes: 3000}, "0")
	}},
	{name: "dovecot-fast", title: "Dovecot submission, high-performance login", start: func(s *site, c *cgroup) (string, error) {
		return startDovecotSubmission(s, c, logins{processes: 4}, "0")
	}},
	{name: "dovecot-fast-cache", title: "Dovecot submission, high-performance login, its cache on", variant: true, start: func(s *site, c *cgroup) (string, error) {
		return startDovecotSubmission(s, c, logins{processes: 4}, dovecotCache)
	}},
}

func serverNames() []string {
	var names []string
	for _, s := range servers {
		names = append(names, s.name)
	}
	return names
}

// startFloor returns a function that starts one of floors.
func startFloor(name string) func(*site, *cgroup) (string, error) {
	return func(s *site, c *cgroup) (string, error) {
		self, err := os.Executable()
		if err != nil {
			return "", err
		}
		addr := freeAddr()
		return addr, c.start(s.path(name+".log"), self, name, addr, s.dir)
	}
}

// posternConfig has the default of each key, except the limits that clients
// would exceed because all of them have one address.
const posternConfig = `
[server]
hostname = "mx.example.org"
user = "nobody"
[server.limits]
connections = 40000
connections_per_client = 10000
connections_per_user = 10000
unauthenticated = 10000
[[listener]]
name = "submission"
address = ["{addr}"]
mode = "starttls"
{tls}
[[tls.certificates]]
cert = "{site}/cert.pem"
key = "{site}/key.pem"
[[auth.stores]]
kind = "userfile"
path = "{site}/users"
[relay]
next_hops = ["smtp://{sink}"]
`

// startPostern starts postern with lines for the section [tls].
func startPostern(s *site, c *cgroup, tls string) (string, error) {
	dir, err := s.folder()
	if err != nil {
		return "", err
	}
	addr, conf := freeAddr(), filepath.Join(dir, "config.toml")
	return addr, errors.Join(
		fill(conf, posternConfig, "{addr}", addr, "{site}", s.dir, "{sink}", s.sink, "{tls}", tls),
		c.start(filepath.Join(dir, "log"), s.postern, "serve", "--config", conf),
	)
}
