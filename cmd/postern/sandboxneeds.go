package main

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
)

// needs are what a server of one configuration opens and connects to once it
// serves. Each has the key that asks for it, to be named in a refusal.
type needs struct {
	reads  []neededFile
	writes []neededFile
	trees  []neededFile
	ports  []neededPort
}

type neededFile struct {
	key    string
	path   string
	folder bool // all that is in it
}

type neededPort struct {
	key  string
	port uint16
}

// read is for a file; an empty path is none.
func (n *needs) read(key, path string) {
	if path != "" {
		n.reads = append(n.reads, neededFile{key: key, path: path})
	}
}

// write is for a folder.
func (n *needs) write(key, folder string) {
	n.writes = append(n.writes, neededFile{key: key, path: folder, folder: true})
}

// tree is for a folder with folders of its own in it, between which files are
// moved; an empty one is none.
func (n *needs) tree(key, folder string) {
	if folder != "" {
		n.trees = append(n.trees, neededFile{key: key, path: folder, folder: true})
	}
}

// connect takes HOST:PORT, as a URL or with a prefix such as "inet:". A Unix
// socket needs nothing, and has no port.
func (n *needs) connect(key, address string) {
	if _, rest, ok := strings.Cut(address, "://"); ok {
		address = rest
	}
	if strings.HasPrefix(address, "/") {
		return
	}
	_, text, err := net.SplitHostPort(strings.TrimPrefix(address, "inet:"))
	if err != nil {
		return // what uses the address reports it
	}
	if port, err := net.LookupPort("tcp", text); err == nil {
		n.ports = append(n.ports, neededPort{key, uint16(port)})
	}
}

func (n *needs) portNumbers() (all []uint16) {
	for _, p := range n.ports {
		all = append(all, p.port)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// dnsPort serves TCP for answers that are too long for UDP.
const dnsPort = 53

// needsOf goes through the sections of a configuration, in the order of the
// file.
func needsOf(cfg *Config, file string) *needs {
	n := &needs{ports: []neededPort{{"DNS", dnsPort}}}
	n.read("--config", file)
	n.write("server.stage_dir", cmp.Or(cfg.Server.StageDir, os.TempDir()))
	for i, p := range cfg.TLS.Certificates {
		n.read(fmt.Sprintf("tls.certificates[%d].cert", i), p.Cert)
		n.read(fmt.Sprintf("tls.certificates[%d].key", i), p.Key)
	}
	for i, s := range cfg.Auth.Stores {
		at := "auth.stores[" + strconv.Itoa(i) + "]"
		s.needs(func(key string) string { return join(at, key) }, n)
	}
	for _, u := range cfg.Relay.NextHops {
		n.connect("relay.next_hops", u.String())
	}
	n.tree("relay.spool", cfg.Relay.Dir)
	n.read("relay.credentials", cfg.Relay.Credentials)
	n.read("relay.ca_file", cfg.Relay.CAFile)
	for i, k := range cfg.Relay.DKIM {
		n.read(fmt.Sprintf("relay.dkim[%d].key", i), k.File)
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
		paths = append(paths, folders([]neededFile{{path: file}})...)
	}
	for _, file := range []string{"/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf"} {
		paths = append(paths, folders([]neededFile{{path: file}})...)
	}
	return paths
}
