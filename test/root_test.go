package test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Started as root, postern binds and becomes the user for good: in every
// thread, with that user's groups, and with nothing left that it could gain.
func TestRootBecomesUser(t *testing.T) {
	t.Parallel()
	peer(t, "root")
	s := startSink(t)
	p := startPostern(t, posternOptions{
		NextHop:  "smtp://" + s.Addr,
		Sections: map[string]string{"server": `user = "nobody"`},
		Root:     true,
	})
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", p.cmd.Process.Pid))
	if err != nil || len(threads) == 0 {
		t.Fatalf("no threads found: %v", err)
	}
	for _, thread := range threads {
		wantFields(t, thread, map[string]string{
			"Uid:":    "65534 65534 65534 65534",
			"Gid:":    "65534 65534 65534 65534",
			"Groups:": "65534",
			"CapPrm:": "0000000000000000",
			"CapEff:": "0000000000000000",
			"CapInh:": "0000000000000000",
			"CapAmb:": "0000000000000000",
			"CapBnd:": "0000000000000000",

			"NoNewPrivs:": "1",
		})
	}
	r, err := p.mustLogin(t, "alice").submit(letter("dropped"), "alice@example.org", "bob@example.net")
	if err := accepted(r, err); err != nil {
		t.Error(err)
	}
	s.wait(t, "<dropped@")
}

// wantFields looks at a file of "Name: values" lines.
func wantFields(t *testing.T, file string, want map[string]string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		return // a thread that has ended meanwhile
	}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if value, ok := want[words[0]]; ok && strings.Join(words[1:], " ") != value {
			t.Errorf("%s: %q, want %s", file, strings.TrimSpace(line), value)
		}
	}
}

// Root without a user is refused.
func TestRootWithoutUser(t *testing.T) {
	t.Parallel()
	peer(t, "root")
	p := newPostern(t, posternOptions{NextHop: "smtp://127.0.0.1:1", Root: true})
	p.wantRefusal(t, "server.user")
}

// A key that the user could not read again is an error at start, and the
// command that the error ends with mends it.
func TestUnreadableKey(t *testing.T) {
	t.Parallel()
	peer(t, "root")
	p := newPostern(t, posternOptions{
		NextHop:  "smtp://" + startSink(t).Addr,
		Sections: map[string]string{"server": `user = "nobody"`},
		Root:     true,
	})
	if err := errors.Join(os.Chown(p.file("key.pem"), 0, 0), os.Chmod(p.file("key.pem"), 0o600)); err != nil {
		t.Fatal(err)
	}
	said := p.wantRefusal(t, p.file("key.pem"), "root:root", "0600")
	lines := strings.Split(strings.TrimSpace(said), "\n")
	if out, err := command(t, "sh", "-c", lines[len(lines)-1]).CombinedOutput(); err != nil {
		t.Fatalf("the command to mend it: %v\n%s\n%s", err, out, said)
	}
	p.run(t)
}
