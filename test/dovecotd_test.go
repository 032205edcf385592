package test

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"postern/server/auth"
	"postern/server/auth/dovecot"
	"postern/server/auth/throttle"
	"postern/test/kit"
)

// A dovecotd is a private Dovecot that runs only the auth service, on a socket and on a
// port.
type dovecotd struct {
	dir, socket, port string
	hold              io.Closer // the instance ends when it is closed
	cmd               *exec.Cmd
}

const dovecotConf = `
base_dir = %[1]s/run
state_dir = %[1]s/state
log_path = %[1]s/log
auth_verbose = yes
protocols =
ssl = no
auth_mechanisms = %[3]s
auth_master_user_separator = *
passdb {
  driver = passwd-file
  args = %[1]s/masters
  master = yes
}
passdb {
  driver = passwd-file
  args = %[1]s/users
}
passdb {
  driver = lua
  args = file=%[1]s/users.lua blocking=no
}
service auth {
  unix_listener %[1]s/auth {
    mode = 0666
  }
  unix_listener %[1]s/master {
    mode = 0666
  }
  unix_listener auth-userdb {
    mode = 0666
  }
  inet_listener {
    address = 127.0.0.1
    port = %[2]s
  }
}
service anvil {
  unix_listener anvil {
    mode = 0666
  }
}
service auth-worker {
  unix_listener auth-worker {
    mode = 0666
  }
}
`

const dovecotUsers = `alice@example.org:{PLAIN}secret
bob@example.org:{PLAIN}hunter2
closed@example.org:{PLAIN}secret::::::nologin=y reason=Closed_for_good
nets@example.org:{PLAIN}secret::::::allow_nets=192.0.2.0/24
elsewhere@example.org:{PLAIN}::::::nopassword=y proxy=y host=192.0.2.1
`

// Users with properties that a passwd-file cannot express.
const dovecotLua = `
function auth_passdb_lookup(req)
  if req.user == "disabled@example.org" then return dovecot.auth.PASSDB_RESULT_USER_DISABLED, "" end
  if req.user == "broken@example.org" then return dovecot.auth.PASSDB_RESULT_INTERNAL_FAILURE, "" end
  return dovecot.auth.PASSDB_RESULT_USER_UNKNOWN, ""
end
`

const dovecotMechanisms = "plain login cram-md5 digest-md5 scram-sha-1 scram-sha-256 anonymous external apop"

func startDovecot(t *testing.T) *dovecotd {
	t.Helper()
	peer(t, "root", "dovecot", "gsasl", "dovecot-lua")
	dir := kit.OpenDir(t)
	d := &dovecotd{dir: dir, socket: filepath.Join(dir, "auth"), port: strconv.Itoa(kit.Port(t))}
	d.configure(t, dovecotMechanisms)
	write(t, filepath.Join(dir, "users"), dovecotUsers)
	write(t, filepath.Join(dir, "users.lua"), dovecotLua)
	write(t, filepath.Join(dir, "masters"), "admin:{PLAIN}master\n")
	d.start(t)
	t.Cleanup(func() {
		d.stop(t)
		if t.Failed() {
			t.Logf("log of Dovecot:\n%s", d.log())
		}
	})
	return d
}

func (d *dovecotd) configure(t *testing.T, mechanisms string) {
	t.Helper()
	write(t, filepath.Join(d.dir, "conf"), fmt.Sprintf(dovecotConf, d.dir, d.port, mechanisms))
}

// start runs it under a shell that ends it when this process ends.
func (d *dovecotd) start(t *testing.T) {
	t.Helper()
	d.cmd = exec.Command("sh", "-c", `dovecot -F -c "$0" </dev/null & read -r _; kill $!; wait $!`, filepath.Join(d.dir, "conf"))
	hold, err := d.cmd.StdinPipe()
	kit.Must(t, err)
	kit.Must(t, d.cmd.Start())
	d.hold = hold
	kit.Eventually(t, "Dovecot", func() bool { return listening("127.0.0.1:" + d.port) })
}

// stop ends it at once. By itself the auth process would continue to serve connected
// clients.
func (d *dovecotd) stop(t *testing.T) {
	t.Helper()
	if d.hold == nil {
		return
	}
	d.signal(t, syscall.SIGKILL)
	d.hold.Close()
	_ = d.cmd.Wait() // ended by a signal, as intended
	d.hold = nil
}

func (d *dovecotd) log() string {
	text, _ := os.ReadFile(filepath.Join(d.dir, "log"))
	return string(text)
}

// signal sends a signal to the auth process.
func (d *dovecotd) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(d.dir, "run/master.pid"))
	kit.Must(t, err)
	master := strings.TrimSpace(string(text))
	children, err := os.ReadFile(filepath.Join("/proc", master, "task", master, "children"))
	kit.Must(t, err)
	for _, child := range strings.Fields(string(children)) {
		comm, _ := os.ReadFile(filepath.Join("/proc", child, "comm"))
		if pid, _ := strconv.Atoi(child); strings.TrimSpace(string(comm)) == "auth" {
			if err := syscall.Kill(pid, s); err != nil && !errors.Is(err, syscall.ESRCH) { // ended after a reload
				t.Fatal(err)
			}
		}
	}
}

// proxy returns a client for the socket or another address.
func (d *dovecotd) proxy(t *testing.T, addr string) dovecot.Proxy {
	t.Helper()
	cfg := dovecot.Defaults()
	kit.Must(t, cfg.Path.UnmarshalText([]byte(addr)))
	p := dovecot.Proxy{
		Store:    dovecot.New(cfg, auth.NewLog(slog.New(slog.DiscardHandler))),
		Throttle: throttle.New(throttle.Config{MaxWait: kit.Patience}),
		Options:  auth.DefaultSecurityOptions(),
		Calls:    auth.NewCalls(kit.Patience, 100),
	}
	t.Cleanup(func() { p.Close() })
	return p
}
