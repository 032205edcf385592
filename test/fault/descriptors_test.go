package fault

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"postern/relay/relaytest"
	"postern/test/kit"
)

// Clients use up all file descriptors of postern. It does not crash or spin, it logs the
// reason, an open session works as far as it needs no further descriptor, and after the
// clients have left everything works again.
func TestNoDescriptorsLeft(t *testing.T) {
	t.Parallel()
	hop := relaytest.New(t, relaytest.Options{})
	s := startServer(t, hop.URL(), map[string]string{"relay": quick, "server": "limits.connections_per_client = 1000\n"})
	c, err := s.login("alice")
	kit.Must(t, err)
	defer c.Close()
	book := newLedger()
	want := func(c *client, mark string, size, class int) {
		t.Helper()
		if r, err := book.submit(c, mark, "alice", size); err != nil || r.Code/100 != class {
			t.Errorf("%s: got %v, %v, want %dxx", mark, r, err, class)
		}
	}
	want(c, "before", 0, 2)

	const spare = 10
	s.limit(t, fmt.Sprintf("--nofile=%d:", s.descriptors(t)+spare))
	idle := dialMany(t, s.addr, spare+30)
	kit.Eventually(t, "the line about it in the log", func() bool { return s.logged("cannot accept connections") > 0 })
	for n := range 20 {
		want(c, fmt.Sprintf("small-%d", n), 0, 2) // over the open connection to the hop
	}
	want(c, "large", mebibyte, 4) // needs a temporary file
	const rest = 2 * time.Second
	spent, logged := s.cpu(t), s.logged("cannot accept connections")
	time.Sleep(rest)
	busy := s.cpu(t) - spent
	t.Logf("%v without descriptors and work: %v of CPU, %d log lines", rest, busy, s.logged("cannot accept connections")-logged)
	if busy > rest/2 {
		t.Errorf("%v of CPU in %v: a loop spins", busy, rest)
	}

	for _, conn := range idle {
		conn.Close()
	}
	kit.Eventually(t, "a new client to log in", func() bool {
		c, err := s.login("bob")
		if err != nil {
			return false
		}
		defer c.Close()
		want(c, "after", mebibyte, 2)
		return true
	})
	want(c, "large", mebibyte, 2)
	book.settle(t, hop, 0)
}

func dialMany(t *testing.T, addr string, n int) []net.Conn {
	t.Helper()
	var conns []net.Conn
	for range n {
		c, err := net.Dial("tcp", addr)
		kit.Must(t, err)
		conns = append(conns, c)
		t.Cleanup(func() { c.Close() })
	}
	return conns
}

// limit sets a resource limit of the running server, given as an option of prlimit(1).
// It runs as the user of the server, since root may do this only with all its
// capabilities.
func (s *server) limit(t *testing.T, limit string) {
	t.Helper()
	cmd := exec.Command("prlimit", "--pid", strconv.Itoa(s.cmd.Process.Pid), limit)
	cmd.SysProcAttr = kit.AsNobody()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("prlimit: %v\n%s", err, out)
	}
}

// descriptors returns the number of open file descriptors of the server.
func (s *server) descriptors(t *testing.T) int {
	t.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.cmd.Process.Pid))
	kit.Must(t, err)
	return len(open)
}

// cpu returns the CPU time that the server has used so far.
func (s *server) cpu(t *testing.T) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	kit.Must(t, err)
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest) // from the third field, the state
	total := 0
	for _, field := range fields[11:13] { // user and system
		n, err := strconv.Atoi(field)
		kit.Must(t, err)
		total += n
	}
	return time.Duration(total) * 10 * time.Millisecond // USER_HZ is 100
}
