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

// Clients take every file descriptor that postern may have. Nothing crashes or
// spins, the log says it, a session that is there works on as far as it needs
// no more descriptors, and when the clients leave all is well.
func TestNoDescriptorsLeft(t *testing.T) {
	t.Parallel()
	hop := relaytest.New(t, relaytest.Options{})
	s := startServer(t, hop.URL(), map[string]string{"relay": quick, "server": "limits.connections_per_client = 1000\n"})
	c, err := s.login("alice")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	book := newLedger()
	want := func(c *client, mark string, size, class int) {
		t.Helper()
		if r, err := book.submit(c, mark, "alice", size); err != nil || r.Code/100 != class {
			t.Errorf("%s: %v, %v, want %d", mark, r, err, class)
		}
	}
	want(c, "before", 0, 2)

	const spare = 10
	s.limit(t, fmt.Sprintf("--nofile=%d:", s.descriptors(t)+spare))
	crowd := dialMany(t, s.addr, spare+30)
	kit.Eventually(t, "a word about it in the log", func() bool { return s.logged("cannot accept connections") > 0 })
	for n := range 20 {
		want(c, fmt.Sprintf("small-%d", n), 0, 2) // over the connection to the hop that there is
	}
	want(c, "large", mebibyte, 4) // wants a file
	const rest = 2 * time.Second
	spent, logged := s.cpu(t), s.logged("cannot accept connections")
	time.Sleep(rest)
	busy := s.cpu(t) - spent
	t.Logf("without descriptors and work for %v: %v of CPU, %d lines in the log", rest, busy, s.logged("cannot accept connections")-logged)
	if busy > rest/2 {
		t.Errorf("%v of CPU in %v: it spins", busy, rest)
	}

	for _, conn := range crowd {
		conn.Close()
	}
	kit.Eventually(t, "a new client to get in", func() bool {
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
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		t.Cleanup(func() { c.Close() })
	}
	return conns
}

// limit sets a resource limit of the running server, in the words of prlimit(1).
// The user of the server may do that, and root only where it has all its
// capabilities.
func (s *server) limit(t *testing.T, limit string) {
	t.Helper()
	cmd := exec.Command("prlimit", "--pid", strconv.Itoa(s.cmd.Process.Pid), limit)
	cmd.SysProcAttr = kit.AsNobody()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("prlimit: %v\n%s", err, out)
	}
}

// descriptors is how many the server has open.
func (s *server) descriptors(t *testing.T) int {
	t.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}

// cpu is the time that the server has computed so far.
func (s *server) cpu(t *testing.T) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest) // from the third, the state
	total := 0
	for _, field := range fields[11:13] { // user and system
		n, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		total += n
	}
	return time.Duration(total) * 10 * time.Millisecond // USER_HZ is 100
}
