package test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern/test/kit"
)

// authFixtures start daemons that other stores than a user file ask.
var authFixtures = map[string]fixture{
	// dovecot: Dovecot, whose folder of sockets is {{dovecot}}; "auth" in it is for clients
	"dovecot": func(t *testing.T, s *setup, _ []string) {
		d := startDovecot(t)
		s.values["dovecot"] = d.dir
		kit.Must(t, os.Chmod(filepath.Join(d.dir, "run"), 0o755))
	},
	// saslauthd: its folder is {{saslauthd}}
	"saslauthd": func(t *testing.T, s *setup, _ []string) {
		s.values["saslauthd"] = startSaslauthd(t, "true", "-a", "sasldb").dir
	},
	// rootonly FOLDER: only root and the group daemon may enter it, as on Debian
	"rootonly": func(t *testing.T, s *setup, args []string) {
		kit.Must(t, os.Chown(args[0], 0, 1))
		kit.Must(t, os.Chmod(args[0], 0o710))
	},
	// hopaddress: {{hopaddress}} is the host and the port of the next hop
	"hopaddress": func(_ *testing.T, s *setup, _ []string) {
		s.values["hopaddress"] = strings.TrimPrefix(s.values["hop"], "smtp://")
	},
	// stale NAME: a socket whose server has ended
	"stale": func(t *testing.T, s *setup, args []string) {
		kit.StaleSocket(t, s.file(args[0]), 0o755)
		kit.Own(t, s.file(args[0]))
	},
	// silent NAME: a socket whose server reads and sends nothing
	"silent": func(t *testing.T, s *setup, args []string) {
		l, err := net.Listen("unix", s.file(args[0]))
		kit.Must(t, err)
		t.Cleanup(func() { l.Close() })
		kit.Must(t, os.Chmod(s.file(args[0]), 0o777))
	},
}
