package test

import (
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/go-ldap/ldap/v3"

	"postern/internal/ldapclient/ldaptest"
	"postern/test/kit"
)

// slowStores are real stores that refuse a password 2 seconds later than they accept one.
var slowStores = map[string]func(*testing.T) storeCase{
	"saslauthd": func(t *testing.T) storeCase {
		services := kit.OpenDir(t)
		write(t, filepath.Join(services, "smtp"), "auth required pam_unix.so\naccount required pam_unix.so\n")
		d := startSaslauthd(t, fmt.Sprintf("mount --bind %s /etc/pam.d", services), "-a", "pam", "-n", "2")
		return storeCase{
			stores: fmt.Sprintf("[[auth.stores]]\nkind = \"saslauthd\"\npath = %q\n", d.socket()),
			user:   newUser(t, "sesame"), password: "sesame",
		}
	},
	"pam": func(t *testing.T) storeCase {
		const service = "auth sufficient pam_unix.so nodelay\nauth required pam_exec.so quiet /bin/sleep 2\n" +
			"auth required pam_deny.so\naccount required pam_unix.so\n"
		h := startPAMHelper(t, map[string]string{"smtp": service}, "--allow-user", strconv.Itoa(nobody))
		return storeCase{
			stores: fmt.Sprintf("[[auth.stores]]\nkind = \"pam\"\nsocket = %q\n", h.socket()),
			user:   newUser(t, "sesame"), password: "sesame",
		}
	},
	"dovecot": dovecotCase, // the only store: Dovecot runs the whole exchange
	"dovecot and a file": func(t *testing.T) storeCase {
		o := dovecotCase(t)
		empty := filepath.Join(kit.OpenDir(t), "users")
		write(t, empty, "nobody:"+hash+"\n")
		o.stores += fmt.Sprintf("[[auth.stores]]\nkind = \"userfile\"\npath = %q\n", empty)
		return o
	},
}

// hangUpAfter sends the command and closes the connection at once.
func (p *postern) hangUpAfter(from *net.TCPAddr, command string) error {
	c, err := p.connect(startTLS, from)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = fmt.Fprintf(c.Conn, "%s\r\n", command)
	return err
}

// A client that hangs up before a slow refusal is found by fail2ban like one that waits for
// it. A right password costs nothing.
func TestRefusalAfterTheClientHasGone(t *testing.T) {
	t.Parallel()
	peer(t, "fail2ban-regex")
	for name, newCase := range slowStores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newCase(t)
			p := startPostern(t, posternOptions{NextHop: "smtp://" + startSink(t).Addr, Stores: o.stores})
			var guessers []string
			for i := range 3 {
				from := loopbackClient(i)
				kit.Must(t, p.hangUpAfter(from, "AUTH PLAIN "+kit.Plain(o.user, fmt.Sprint("guess ", i))))
				guessers = append(guessers, from.IP.String())
			}
			owner := loopbackClient(100)
			kit.Must(t, p.hangUpAfter(owner, "AUTH PLAIN "+kit.Plain(o.user, o.password)))
			kit.Eventually(t, "all outcomes", func() bool {
				return len(p.logged(`msg="auth failed"`)) == 3 && len(p.logged("client="+owner.IP.String(), `msg="auth `)) == 1
			})
			got := banned(t, p.file("log"))
			slices.Sort(got)
			if !slices.Equal(got, guessers) {
				t.Errorf("fail2ban found %v, want %v", got, guessers)
			}
			if len(p.logged(`msg="auth failed"`, "user="+o.user, "abandoned=true")) == 0 {
				t.Errorf("no refusal came after its client had gone:\n%s", strings.Join(p.logged(`msg="auth `), "\n"))
			}
			p.wantLogin(t, owner, o.user, o.password, 235)
		})
	}
}

// A directory that hangs for most of its users, and a thousand phones that hang up: fail2ban
// finds none of them, whether the directory answers others or not.
func TestHangingDirectoryBansNoPhone(t *testing.T) {
	t.Parallel()
	peer(t, "fail2ban-regex")
	for answersOthers, phones := range map[bool]int{false: 1000, true: 200} {
		t.Run(fmt.Sprint("answers others ", answersOthers), func(t *testing.T) {
			t.Parallel()
			f := ldaptest.Start(t, func(c *ldaptest.Conn, q ldaptest.Request) {
				if answersOthers && strings.HasPrefix(q.Name, "uid=alice") {
					c.Done(q, ldap.LDAPResultSuccess, "")
				}
			})
			p := startPostern(t, posternOptions{
				NextHop:  "smtp://" + startSink(t).Addr,
				Stores:   fmt.Sprintf("[[auth.stores]]\nkind = \"ldap\"\nserver_host = [%q]\nuser_dn = \"uid={user}\"\ntimeout = \"1s\"\nconnections = 64\n", f.URL()),
				Sections: map[string]string{"server": "limits.connections_per_client = 2000"},
			})
			jobs := make(chan int)
			var all sync.WaitGroup
			for range 20 {
				all.Go(func() {
					for i := range jobs {
						if err := p.hangUpAfter(loopbackClient(i), "AUTH PLAIN "+kit.Plain(fmt.Sprint("user", i), "secret")); err != nil {
							t.Error(err)
						}
						if i%10 == 0 && answersOthers {
							p.tryLogin(t, loopbackClient(2000+i), "alice", "secret") // may find the store busy
						}
					}
				})
			}
			for i := range phones {
				jobs <- i
			}
			close(jobs)
			all.Wait()
			outcomes := func() int {
				return len(p.logged(`msg="auth unavailable"`, "user=user")) + len(p.logged(`msg="auth abandoned"`))
			}
			kit.Eventually(t, "all outcomes", func() bool { return outcomes() == phones })
			if got := banned(t, p.file("log")); len(got) != 0 {
				t.Errorf("fail2ban found %d phones: %v", len(got), got)
			}
			if counted := len(p.logged("counted=true")); (counted > 0) != answersOthers {
				t.Errorf("%d phones were counted", counted)
			}
			if n := len(p.logged("user=user", "abandoned=true")); n == 0 {
				t.Error("no phone had gone before its outcome")
			}
		})
	}
}
