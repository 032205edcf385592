package test

import (
	"strings"
	"testing"

	"postern/test/kit"
)

// What an administrator asks a running server, with a real Postfix behind it.
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
		says        string
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
			if got := cmd.ProcessState.ExitCode(); got != c.status || !strings.Contains(string(out), c.says) {
				t.Errorf("%v, exit status %d, want %d and %q in\n%s", err, got, c.status, c.says, out)
			}
		})
	}
}

// With the next hop down, check says so, and health, which is about postern
// alone, stays green.
func TestCommandsWithoutHop(t *testing.T) {
	t.Parallel()
	p := startPostern(t, posternOptions{NextHop: "smtp://" + kit.Addr(t)})
	out, err := p.command(t, "check", "--config", p.file("config.toml")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), p.opts.NextHop) {
		t.Errorf("check ended with %v and said\n%s", err, out)
	}
	p.wantHealth(t)
}

// wantHealth asks more than once, as supervisors do: health gives the server two
// seconds, for which a machine may stand still.
func (p *postern) wantHealth(t *testing.T) {
	t.Helper()
	kit.Eventually(t, "postern to be well", func() bool {
		return p.command(t, "health", "--config", p.file("config.toml")).Run() == nil
	})
}
