package main

import (
	"cmp"
	"fmt"
	"os"
	"strconv"

	"postern/internal/access"
)

// dnsPort serves TCP for answers that are too long for UDP.
const dnsPort = 53

// accessOf returns what a server with this configuration opens and connects to
// while it serves, in the order of the sections.
func accessOf(cfg *Config, file string) *access.List {
	n := &access.List{Ports: []access.Port{{Key: "DNS", Port: dnsPort}}}
	n.Read("--config", file)
	n.Write("server.stage_dir", cmp.Or(cfg.Server.StageDir, os.TempDir()))
	for i, p := range cfg.TLS.Certificates {
		n.Read(fmt.Sprintf("tls.certificates[%d].cert", i), p.Cert)
		n.Read(fmt.Sprintf("tls.certificates[%d].key", i), p.Key)
	}
	for i, s := range cfg.Auth.Stores {
		at := "auth.stores[" + strconv.Itoa(i) + "]"
		s.Backend.Access(func(key string) string { return join(at, key) }, n)
	}
	for _, u := range cfg.Relay.NextHops {
		n.Connect("relay.next_hops", u.String())
	}
	n.Tree("relay.spool", cfg.Relay.Dir)
	n.Read("relay.credentials", cfg.Relay.Credentials)
	n.Read("relay.ca_file", cfg.Relay.CAFile)
	for i, k := range cfg.Relay.DKIM {
		n.Read(fmt.Sprintf("relay.dkim[%d].key", i), k.File)
	}
	return n
}

// systemReads is what the libraries open behind our back.
//
// /etc is allowed as a whole, as far as the modes of its files let an
// unprivileged user read them: hosts, resolv.conf and nsswitch.conf are
// replaced by renaming while the server runs, by DHCP clients and by people, and a
// rule knows no other way to follow that. Those who want more kept from the
// process say so in the unit (InaccessiblePaths=).
func systemReads() []string {
	paths := []string{
		"/etc",
		// Where resolv.conf may lead to.
		"/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager",
		// The certificates that /etc/ssl/certs leads to.
		"/usr/share/ca-certificates", "/usr/local/share/ca-certificates", "/var/lib/ca-certificates",
		"/usr/share/zoneinfo",
		// The modules of nsswitch.conf, in a build with cgo.
		"/lib", "/lib64", "/usr/lib", "/usr/lib64", "/var/lib/sss/mc",
		"/dev/null", "/dev/urandom",
		os.Getenv("SSL_CERT_DIR"), // one, as a rule
	}
	if file := os.Getenv("SSL_CERT_FILE"); file != "" {
		paths = append(paths, folders([]access.Path{{Path: file}})...)
	}
	for _, file := range []string{"/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf"} {
		paths = append(paths, folders([]access.Path{{Path: file}})...)
	}
	return paths
}
