package test

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"postern/relay/relaytest"
	"postern/test/kit"
)

// systemFixtures are machines and containers in which something is missing.
var systemFixtures = map[string]fixture{
	// mounted COMMAND: postern runs after this shell command, which mounts something over what
	// it sees, with the folder of the set-up as $0
	"mounted": func(t *testing.T, s *setup, args []string) {
		s.private(t, "--mount", strings.Join(args, " "))
	},
	// nonet: postern has a network of its own, in which the kernel's defaults for ports apply
	"nonet": func(t *testing.T, s *setup, _ []string) { s.private(t, "--net", "true") },
	// lowports: as nonet, and every user may bind every port
	"lowports": func(t *testing.T, s *setup, _ []string) {
		s.private(t, "--net", "echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start")
	},
	// env NAME=VALUE
	"env": func(_ *testing.T, s *setup, args []string) {
		s.prefix = append(s.prefix, "env", args[0])
	},
	// resolver ADDRESS: a resolver that does not answer, which is the only one
	"resolver": func(t *testing.T, s *setup, args []string) {
		c, err := net.ListenPacket("udp", net.JoinHostPort(args[0], "53"))
		kit.Must(t, err)
		t.Cleanup(func() { _ = c.Close() })
		s.write(t, "resolv.conf", "nameserver "+args[0]+"\noptions timeout:1 attempts:1\n")
		s.private(t, "--mount", `mount --bind "$0/resolv.conf" "$(readlink -f /etc/resolv.conf)"`)
	},
	// changed DAYS NAME: the time of the file is so many days from now
	"changed": func(t *testing.T, s *setup, args []string) {
		days, err := strconv.Atoi(args[0])
		kit.Must(t, err)
		at := time.Now().AddDate(0, 0, days)
		kit.Must(t, os.Chtimes(s.file(args[1]), at, at))
	},
	// listen ADDRESS: another server has this port
	"listen": func(t *testing.T, _ *setup, args []string) {
		l, err := net.Listen("tcp", args[0])
		kit.Must(t, err)
		t.Cleanup(func() { _ = l.Close() })
	},
	// expiredhop: a hop with TLS whose certificate has expired; its CA is {{hopca}}
	"expiredhop": func(t *testing.T, s *setup, _ []string) {
		ca := kit.NewCA(t, kit.OpenDir(t))
		certPEM, keyPEM := kit.Certificate{NotAfter: time.Now().Add(-time.Minute)}.SignedBy(t, ca)
		cert, err := tls.X509KeyPair(certPEM, keyPEM)
		kit.Must(t, err)
		h := relaytest.New(t, relaytest.Options{Implicit: true, TLS: &tls.Config{Certificates: []tls.Certificate{cert}}})
		s.values["hop"], s.values["hopca"] = h.URL(), ca.File
	},
}

// private makes postern run in namespaces of its own, after a shell command as root.
func (s *setup) private(t *testing.T, namespace, command string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can make namespaces")
	}
	s.prefix = append([]string{"unshare", namespace, "sh", "-c",
		command + ` && exec setpriv --reuid nobody --regid nogroup --clear-groups -- "$@"`, s.dir}, s.prefix...)
	s.root = true
}

// A system without /proc weakens the server, and does not end it. A build with cgo finds its
// threads there.
func TestWithoutProc(t *testing.T) {
	t.Parallel()
	s := newSetup(t, "smtp://127.0.0.1:9")
	s.private(t, "--mount", "mount -t tmpfs none /proc")
	kit.Must(t, os.Remove(s.file("cert.pem"))) // ends serve after it has entered its sandbox
	s.write(t, "config.toml", s.replace(`[server]
hostname = "mail.example.org"
[[listener]]
name = "submission"
address = ["{{listen}}"]
mode = "starttls"
[tls]
certificates = [{ cert = "{{dir}}/cert.pem", key = "{{dir}}/key.pem" }]
[auth]
stores = [{ kind = "userfile", path = "{{dir}}/users" }]
[relay]
next_hops = ["{{hop}}"]
`))
	file, err := program()
	kit.Must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // for a serve that does not end
	defer cancel()
	for command, last := range map[string]string{"check": " sandbox ", "serve": "certificate: open"} {
		line := append(slices.Clone(s.prefix), file, command, "--config", s.file("config.toml"))
		data, err := exec.CommandContext(ctx, line[0], line[1:]...).CombinedOutput()
		if out := string(data); !strings.Contains(out, last) || strings.Contains(out, "aborting") || strings.Contains(out, "panic") {
			t.Errorf("%s: %v\n%s", command, err, out)
		}
	}
}
