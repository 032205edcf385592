package test

import (
	"net"
	"os"
	"os/exec"
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
	// fileMounted NAME MODE: postern runs as root where the file is mounted by itself, rw or ro
	"fileMounted": func(t *testing.T, s *setup, args []string) {
		s.inside(t, `mount --bind "$0" "$0" && mount -o "remount,bind,$1" "$0"`, s.file(args[0]), args[1])
	},
	// full NAME: postern runs as root where a full disk has a copy of the file as disk/users
	"full": func(t *testing.T, s *setup, args []string) {
		kit.Must(t, os.Mkdir(s.file("disk"), 0o755))
		s.inside(t, fillDisk, s.file(args[0]), s.file("disk"))
	},
	// silent NAME: a socket whose server reads and sends nothing
	"silent": func(t *testing.T, s *setup, args []string) {
		l, err := net.Listen("unix", s.file(args[0]))
		kit.Must(t, err)
		t.Cleanup(func() { l.Close() })
		kit.Must(t, os.Chmod(s.file(args[0]), 0o777))
	},
}

// fillDisk mounts a full disk at the folder $1, with a copy of the file $0 as users.
const fillDisk = `mount -t tmpfs -o size=16k tmpfs "$1" && cp -p "$0" "$1/users" && ! dd if=/dev/zero of="$1/rest" bs=1k 2>/dev/null`

// A file that is mounted by itself is as it was if the disk is full.
func TestPasswdInPlaceOnFullDisk(t *testing.T) {
	t.Parallel()
	s := newSetup(t, "")
	kit.Must(t, os.Mkdir(s.file("disk"), 0o755))
	// The file fills whole blocks, so that a new line needs another one.
	s.write(t, "users", "#"+strings.Repeat(" ", 4094)+"\n"+"alice:!\n#"+strings.Repeat(" ", 4096-10)+"\n")
	s.inside(t, fillDisk+` && mount --bind "$1/users" "$1/users"`, s.file("users"), s.file("disk"))
	file, err := program()
	kit.Must(t, err)
	line := append(s.prefix, "sh", "-c", `echo sesame | "$0" passwd --stdin "$1/disk/users" alice; echo "status $?"; cmp "$1/users" "$1/disk/users" && echo same`, file, s.dir)
	out, err := exec.Command(line[0], line[1:]...).CombinedOutput()
	for _, want := range []string{"changed in place", "nothing was changed", "no space left", "status 1", "same"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%v, no %q in\n%s", err, want, out)
		}
	}
}

// inside makes postern run as root in a mount namespace of its own, after a command of the
// shell with two arguments.
func (s *setup) inside(t *testing.T, command, first, second string) {
	t.Helper()
	peer(t, "root", "unshare")
	s.root = true
	s.prefix = []string{"unshare", "--mount", "sh", "-c", "(" + command + `) && shift && exec "$@"`, first, second}
}
