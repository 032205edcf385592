// Package test runs postern among the programs that it has to get on with:
// a private Postfix as the next hop, real mail clients in front of it,
// somebody else's DKIM verifier, fail2ban.
//
// [startPostfix] and [startPostern] start the two servers in folders of the
// test's own, on loopback ports of its own, and end them by their own process
// ids; nothing below /etc is read or changed. Behind Postfix stands a
// [sink], which keeps each message as the bytes that came over the wire.
//
// The programs come from Debian; run.sh installs them and then runs these
// tests with POSTERN_TEST_REQUIRE_PEERS=1. Without that variable a test whose
// program is missing is skipped.
//
// To add a mail client, add a line to the table in clients_test.go.
package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// python is Debian's interpreter: its dkim module is not another's.
const python = "/usr/bin/python3"

// peer says which programs a test needs: names of commands, or of what probes
// knows. A missing one skips the test, or fails it where every peer has to be
// there. It is the only place where a test is skipped.
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

// nodeEnv lets node find the packages that run.sh has put outside the tree.
func nodeEnv() []string {
	return append(os.Environ(), "NODE_PATH="+os.Getenv("POSTERN_TEST_NODE_PATH"))
}
