package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A file of users and then a directory: who is asked, and whose word counts.
func TestStoreList(t *testing.T) {
	t.Parallel()
	s := startSlapd(t)
	p := startPostern(t, posternOptions{
		NextHop:  "smtp://" + startSink(t).Addr,
		Sections: map[string]string{"auth": exempt + "\nrealm = \"example.org\""},
		Stores:   userTable(t, "") + s.table(t, "login = \"{local}\"\ntimeout = \"10s\""),
	})
	for _, tt := range []struct {
		user, password string
		code           int
	}{
		{"alice@example.org", password, 235},
		{"alice", password, 235},
		{"alice", "secret", 535}, // hers in the directory, but the file's word counts
		{"carol", "secret", 235},
		{"carol@example.org", "secret", 235},
		{"carol@example.net", "secret", 535}, // somebody else
		{"carol", password, 535},
		{"bob", "secret", 535},
		{"nobody", "secret", 535},
	} {
		p.wantLogin(t, nil, tt.user, tt.password, tt.code)
	}
	p.wantTrace(t, "alice", password, 0, `store userfile was asked for "alice@example.org": yes`)
	p.wantTrace(t, "carol", "secret", 0,
		`store userfile was asked for "carol@example.org": no such user`, `store ldap was asked for "carol": yes`)
	p.wantTrace(t, "carol@example.net", "secret", 1,
		`store userfile was asked for "carol@example.net": no such user`, "store ldap was not asked: ")
	p.wantTrace(t, "carol", "mistaken", 1, `store ldap was asked for "carol": wrong password`)
	p.wantTrace(t, "bob", "secret", 1, "account disabled")

	s.freeze(t)
	p.wantLogin(t, nil, "carol", "secret", 454)
	p.wantLogin(t, nil, "alice", password, 235)
	s.signal(t, syscall.SIGCONT)
	p.wantLogin(t, nil, "carol", "secret", 235)
	s.stop()
	p.wantLogin(t, nil, "carol", "secret", 454)
	p.wantLogin(t, nil, "nobody", "secret", 454)
	p.wantLogin(t, nil, "alice", password, 235)
	p.wantLogin(t, nil, "alice", "wrong", 535)
	p.wantTrace(t, "carol", "secret", 75, s.port)
}

// on_failure = "next" lets a user have the password of either store, and "stop"
// the one of the first store alone.
func TestStoreListOnFailure(t *testing.T) {
	t.Parallel()
	s := startSlapd(t)
	for onFailure, code := range map[string]int{"next": 235, "stop": 535} {
		t.Run(onFailure, func(t *testing.T) {
			p := startPostern(t, posternOptions{
				NextHop:  "smtp://" + startSink(t).Addr,
				Sections: map[string]string{"auth": exempt},
				Stores:   userTable(t, fmt.Sprintf("on_failure = %q", onFailure)) + s.table(t, "login = \"{local}\""),
			})
			p.wantLogin(t, nil, "alice@example.org", password, 235)
			p.wantLogin(t, nil, "alice@example.org", "secret", code)
			p.wantLogin(t, nil, "carol@example.org", "secret", code)
			p.wantLogin(t, nil, "alice@example.org", "wrong", 535)
		})
	}
}

// userTable is a [[auth.stores]] with one user, and more lines.
func userTable(t *testing.T, more string) string {
	t.Helper()
	path := filepath.Join(openFolder(t), "users")
	write(t, path, "alice@example.org:"+hash+"\n")
	return fmt.Sprintf("[[auth.stores]]\nkind = \"userfile\"\npath = %q\n%s\n", path, more)
}

// wantTrace wants words in the output of "postern auth test", and its status.
func (p *postern) wantTrace(t *testing.T, user, password string, status int, words ...string) {
	t.Helper()
	if got, said := p.authTest(t, user, password); got != status || !containsAll(said, words) {
		t.Errorf("auth test for %s: %d, want %d and %q in\n%s", user, got, status, words, said)
	}
}

// A Dovecot whose socket is in a closed folder, like Postfix's private: check says
// whose it is and what to do.
func TestCheckClosedFolder(t *testing.T) {
	t.Parallel()
	d := startDovecot(t)
	p := startPostern(t, posternOptions{
		NextHop: startPostfix(t, startSink(t)).URL,
		Stores:  fmt.Sprintf("[[auth.stores]]\nkind = \"dovecot\"\npath = %q\n", d.socket),
	})
	p.wantCheck(t, 0, d.socket, "CRAM-MD5")
	if err := os.Chmod(d.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	p.wantCheck(t, 1, d.socket, "FAIL  store", d.dir, "root", "0700", "unix_listener")
}

// wantCheck wants words in the output of "postern check", and its status.
func (p *postern) wantCheck(t *testing.T, status int, words ...string) {
	t.Helper()
	cmd := p.command(t, "check", "--config", p.file("config.toml"))
	out, err := cmd.CombinedOutput()
	if got := cmd.ProcessState.ExitCode(); got != status || !containsAll(string(out), words) {
		t.Errorf("check: %v, exit status %d, want %d and %q in\n%s", err, got, status, words, out)
	}
}

// check has a line for each store, those that are well and those that are not.
func TestCheckStores(t *testing.T) {
	t.Parallel()
	s := startSlapd(t)
	gone := filepath.Join(openFolder(t), "mux")
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
