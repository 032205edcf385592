package test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"postern/test/kit"
)

// User names by which a client could try to forge a line for fail2ban. No address in them
// may be found.
var hostileUsers = []string{
	"nobody",
	"alice client=203.0.113.9 user=x",
	`alice" client=203.0.113.9 user="x`,
	`level=WARN msg="auth failed" session=a listener=b client=203.0.113.9 user=x`,
	"x\nlevel=WARN msg=\"auth failed\" session=a listener=b client=203.0.113.9 user=x",
	"x\r\n{\"level\":\"WARN\",\"msg\":\"auth failed\",\"session\":\"a\",\"listener\":\"b\",\"client\":\"203.0.113.9\",\"user\":\"\"}",
	"x\u2028level=WARN msg=\"auth failed\" session=a listener=b client=203.0.113.9 user=x",
	"203.0.113.9",
	strings.Repeat("a", 250),
	"\x1b[2K",
}

// The filter finds exactly the address of every refused login in the real log.
func TestFail2ban(t *testing.T) {
	t.Parallel()
	peer(t, "fail2ban-regex")
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			p := startPostern(t, posternOptions{
				NextHop:  "smtp://" + startSink(t).Addr,
				Sections: map[string]string{"log": fmt.Sprintf("format = %q", format)},
			})
			want := p.guess(t)
			if got := banned(t, p.file("log")); !slices.Equal(got, want) {
				t.Errorf("fail2ban found %v, want %v, in\n%s", got, want, p.log())
			}
			logs := inSyslog(t, p.logged("auth failed"))
			if got := banned(t, logs); !slices.Equal(got, want) {
				t.Errorf("fail2ban found %v in syslog lines, want %v", got, want)
			}
		})
	}
}

// guess tries each hostile name from another address, with successful logins in between.
// It returns the addresses that the filter must find.
func (p *postern) guess(t *testing.T) []string {
	t.Helper()
	var guessers []string
	for i, user := range append(hostileUsers, "alice") {
		from := loopbackClient(i)
		c, err := p.connect(startTLS, from)
		kit.Must(t, err)
		if err := c.want(535, "AUTH PLAIN "+kit.Plain(user, "wrong")); err != nil {
			t.Fatalf("user %.60q: %v", user, err)
		}
		c.Close()
		guessers = append(guessers, from.IP.String())
		good, err := p.login("alice", loopbackClient(1000+i))
		kit.Must(t, err)
		good.Close()
	}
	return guessers
}

// banned returns the addresses that fail2ban finds in a log, in order.
func banned(t *testing.T, log string) []string {
	t.Helper()
	filter, err := filepath.Abs("../docs/fail2ban/filter.d/postern.conf")
	kit.Must(t, err)
	cmd := command(t, "fail2ban-regex", "-o", "ip", log, filter)
	cmd.Env = append(cmd.Env, "TZ=UTC")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("fail2ban-regex: %v", err)
	}
	return strings.Fields(string(out))
}

// inSyslog writes the lines as a syslog daemon does, with its own timestamp.
func inSyslog(t *testing.T, lines []string) string {
	t.Helper()
	var b strings.Builder
	for _, line := range lines {
		_, text, _ := strings.Cut(line, " ")
		if rest, ok := strings.CutPrefix(line, `{"time":"`); ok {
			_, text, _ = strings.Cut(rest, `",`)
			text = "{" + text
		}
		fmt.Fprintf(&b, "Nov 22 12:00:00 mail postern[4711]: %s\n", text)
	}
	file := filepath.Join(t.TempDir(), "mail.log")
	kit.Must(t, os.WriteFile(file, []byte(b.String()), 0o600))
	return file
}

// fail2ban accepts the jail and the filter of docs/fail2ban.
func TestFail2banJail(t *testing.T) {
	t.Parallel()
	peer(t, "fail2ban-client")
	dir := filepath.Join(t.TempDir(), "fail2ban")
	kit.Must(t, os.CopyFS(dir, os.DirFS("/etc/fail2ban")))
	jails := filepath.Join(dir, "jail.d")
	if err := os.RemoveAll(jails); err != nil { // Debian's jail needs a log that may be missing
		t.Fatal(err)
	}
	for _, name := range []string{"filter.d/postern.conf", "jail.d/postern.conf"} {
		shipped, err := os.ReadFile(filepath.Join("../docs/fail2ban", name))
		kit.Must(t, err)
		kit.Must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		write(t, filepath.Join(dir, name), string(shipped))
	}
	runClient(t, command(t, "fail2ban-client", "-c", dir, "-t"))
	out, err := command(t, "fail2ban-client", "-c", dir, "-d").Output()
	if err != nil || !strings.Contains(string(out), "['start', 'postern']") {
		t.Errorf("the jail does not start: %v\n%s", err, out)
	}
}
