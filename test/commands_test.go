package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern/test/kit"
)

// The commands that an administrator runs beside the server, with a real Postfix.
func TestCommands(t *testing.T) {
	t.Parallel()
	hop := startPostfix(t, startSink(t))
	p := startPostern(t, posternOptions{NextHop: hop.URL})
	p.wantHealth(t)
	config := []string{"--config", p.file("config.toml")}
	cases := []struct {
		name, stdin string
		args        []string
		status      int
		output      string
	}{
		{"check", "", []string{"check"}, 0, hop.URL},
		{"check beside the server", "", []string{"check"}, 0, "is in use by postern already"},
		{"right password", password, []string{"auth", "test", "-u", "alice", "-p", "-"}, 0, "alice"},
		{"wrong password", "wrong", []string{"auth", "test", "-u", "alice", "-p", "-"}, 1, "wrong password"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cmd := p.command(t, append(c.args, config...)...)
			cmd.Stdin = strings.NewReader(c.stdin)
			out, err := cmd.CombinedOutput()
			if got := cmd.ProcessState.ExitCode(); got != c.status || !strings.Contains(string(out), c.output) {
				t.Errorf("%v, exit status %d, want %d and %q in\n%s", err, got, c.status, c.output, out)
			}
		})
	}
}

// If the next hop is down, check reports it. health does not, since it checks postern
// only.
func TestCommandsWithoutHop(t *testing.T) {
	t.Parallel()
	p := startPostern(t, posternOptions{NextHop: "smtp://" + kit.Addr(t)})
	out, err := p.command(t, "check", "--config", p.file("config.toml")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), p.opts.NextHop) {
		t.Errorf("check: %v\n%s", err, out)
	}
	p.wantHealth(t)
}

// wantHealth runs health until it succeeds, as supervisors do: it gives the server two
// seconds, and a virtual machine may stop for longer.
func (p *postern) wantHealth(t *testing.T) {
	t.Helper()
	kit.Eventually(t, "health to succeed", func() bool {
		return p.command(t, "health", "--config", p.file("config.toml")).Run() == nil
	})
}

// The socket of Dovecot is in a closed folder, such as Postfix's private. check reports
// the owner of the folder and the next step.
func TestCheckClosedFolder(t *testing.T) {
	t.Parallel()
	d := startDovecot(t)
	p := startPostern(t, posternOptions{
		NextHop: startPostfix(t, startSink(t)).URL,
		Stores:  fmt.Sprintf("[[auth.stores]]\nkind = \"dovecot\"\npath = %q\n", d.socket),
	})
	p.wantCheck(t, 0, d.socket, "CRAM-MD5")
	kit.Must(t, os.Chmod(d.dir, 0o700))
	p.wantCheck(t, 1, d.socket, "FAIL  store", d.dir, "root", "0700", "unix_listener")
}

// wantCheck checks the status of "postern check" and that its output contains words.
func (p *postern) wantCheck(t *testing.T, status int, words ...string) {
	t.Helper()
	cmd := p.command(t, "check", "--config", p.file("config.toml"))
	out, err := cmd.CombinedOutput()
	if got := cmd.ProcessState.ExitCode(); got != status || !containsAll(string(out), words) {
		t.Errorf("check: %v, exit status %d, want %d and %q in\n%s", err, got, status, words, out)
	}
}

// check prints a line for each store, whether it works or not.
func TestCheckStores(t *testing.T) {
	t.Parallel()
	s := startSlapd(t)
	gone := filepath.Join(kit.OpenDir(t), "mux")
	p := startPostern(t, posternOptions{
		NextHop: startPostfix(t, startSink(t)).URL,
		Stores: userTable(t, "") + s.table(t, "") +
			fmt.Sprintf("[[auth.stores]]\nkind = \"saslauthd\"\npath = %q\n[[auth.stores]]\nkind = \"pam\"\nsocket = %[1]q\n", gone),
	})
	p.wantCheck(t, 1, "ok    store          userfile", "ok    store          ldap", "FAIL  store", gone)
	s.stop()
	p.wantCheck(t, 1, s.url)
	if strings.Contains(p.log(), "service") {
		t.Error("the log has the password of the service account")
	}
}
