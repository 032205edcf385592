package main

import (
	"os"

	"postern/internal/access"
)

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
