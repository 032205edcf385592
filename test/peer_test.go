// Package test runs postern together with real peers: a private Postfix as the next hop,
// mail clients, user databases, another DKIM verifier, fail2ban.
//
// [startPostfix] and [startPostern] start the two servers in temporary folders and on
// reserved loopback ports, and end them by their process ids; nothing below /etc is read
// or changed. Postfix delivers to a [sink], which keeps the bytes of each message.
//
// The programs come from Debian. run.sh installs them and then runs these tests with
// POSTERN_TEST_REQUIRE_PEERS=1. Without that variable a test whose program is missing is
// skipped.
//
// To add a mail client, add a line to the table in clients_test.go.
package test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"postern/test/kit"
)

// python is Debian's interpreter, for which Debian's dkim module is installed.
const python = "/usr/bin/python3"

// peer names what a test needs: commands, or the names that probe knows. A missing one
// skips the test, or fails it if POSTERN_TEST_REQUIRE_PEERS is 1. Only peer and kit skip
// tests.
func peer(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		err := probe(name)
		if err == nil {
			continue
		}
		if os.Getenv("POSTERN_TEST_REQUIRE_PEERS") == "1" {
			t.Fatalf("this test needs %s: %v", name, err)
		}
		t.Skipf("this test needs %s: %v", name, err)
	}
}

func probe(name string) error {
	switch name {
	case "root":
		if os.Geteuid() != 0 {
			return os.ErrPermission
		}
		return nil
	case "files": // ten thousand connections
		var limit syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			return err
		}
		if limit.Cur < 12000 {
			return fmt.Errorf("a limit of open files of at least 12000: see ulimit -Hn (it is %d)", limit.Cur)
		}
		return nil
	case "python3":
		return exec.Command(python, "-c", "").Run()
	case "python3-dkim":
		return exec.Command(python, "-c", "import dkim").Run()
	case "dovecot-lua":
		_, err := os.Stat("/usr/lib/dovecot/modules/auth/libauthdb_lua.so")
		return err
	case "libscram": // of Cyrus SASL
		found, _ := filepath.Glob("/usr/lib/*/sasl2/libscram.so*") // the pattern is well-formed
		if len(found) == 0 {
			return os.ErrNotExist
		}
		return nil
	case "nodemailer":
		cmd := exec.Command("node", "-e", "require('nodemailer')")
		cmd.Env = nodeEnv()
		return cmd.Run()
	}
	_, err := exec.LookPath(name)
	return err
}

// nodeEnv lets node find the packages that run.sh has installed outside the tree.
func nodeEnv() []string {
	return append(os.Environ(), "NODE_PATH="+os.Getenv("POSTERN_TEST_NODE_PATH"))
}

// program and plainProgram build postern once, for the first test that needs it: with
// the race detector, and without it for measurements.
var program, plainProgram = kit.Program("postern-race", "-race"), kit.Program("postern")

func TestMain(m *testing.M) {
	status := m.Run()
	kit.RemovePrograms()
	os.Exit(status)
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// listening reports whether a server accepts connections at addr.
func listening(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// loopbackClient returns a different client address in 127.0.0.0/8 for each n.
func loopbackClient(n int) *net.TCPAddr {
	return &net.TCPAddr{IP: net.ParseIP(fmt.Sprintf("127.1.%d.%d", n/250, 1+n%250))}
}
