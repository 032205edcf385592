package fault

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"postern/relay/relaytest"
	"postern/test/kit"
)

// hangingStores are all that are asked over a connection. Where the answer is
// a few bytes, the drill knows a yes, too; the recovery of the others is
// drilled with their real servers in package test.
var hangingStores = []struct {
	name, network string
	table         string // with the address, or the two halves of it
	yes           string
}{
	{"saslauthd", "unix", "kind = \"saslauthd\"\npath = %q\n", "\x00\x02OK"},
	{"pam", "unix", "kind = \"pam\"\nsocket = %q\n", "\x00\x06OK zoe"},
	{"dovecot", "unix", "kind = \"dovecot\"\npath = %q\n", ""},
	{"ldap", "tcp", "kind = \"ldap\"\nserver_host = [\"ldap://%s\"]\nuser_dn = \"uid={user},dc=example,dc=org\"\n", ""},
	{"postgres", "tcp", "kind = \"sql\"\ndriver = \"postgres\"\ndsn = \"postgres://postern@%s/mail?sslmode=disable\"\n" + query, ""},
	{"mysql", "tcp", "kind = \"sql\"\ndriver = \"mysql\"\ndsn = \"postern@tcp(%s)/mail\"\n" + query, ""},
}

const query = "query = \"select password, username from users where username = {user}\"\n"

// A store that accepts and never answers: whoever is at home there is told to
// try again, in the time that the store has, and nobody else notices.
func TestHangingStore(t *testing.T) {
	t.Parallel()
	for _, h := range hangingStores {
		t.Run(h.name, func(t *testing.T) {
			t.Parallel()
			hole := startHole(t, h.network, h.yes)
			hop := relaytest.New(t, relaytest.Options{})
			users := filepath.Join(folder(t), "users")
			s := newServer(t, hop.URL(), map[string]string{"auth": exempt + fmt.Sprintf(
				"[[auth.stores]]\nkind = \"userfile\"\npath = %q\n[[auth.stores]]\ntimeout = \"1s\"\n"+h.table, users, hole.addr)})
			rename(t, s.file("users"), users)
			s.start(t)
			d := storeDrill{server: s, book: newLedger()}
			d.hang(t)
			if h.yes != "" {
				hole.answering.Store(true)
				kit.Eventually(t, "the store's user to be let in", func() bool { return d.code("zoe") == 235 })
			}
			d.book.settle(t, hop, 0)
		})
	}
}

// stuckLogins is more than a store is asked about at once.
const stuckLogins = 24

type storeDrill struct {
	server *server
	book   *ledger
}

// hang has many ask the hanging store, while others work.
func (d storeDrill) hang(t *testing.T) {
	t.Helper()
	idle, err := d.server.login("alice")
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	d.mustSend(t, idle, "before")
	// Far above the store's second, of which they share 20, on a machine that
	// may be busy with other things; and far below the five minutes that a
	// client waits for an answer (RFC 5321 4.5.3.2).
	const patience = time.Minute
	begun := time.Now()
	var stuck sync.WaitGroup
	for range stuckLogins {
		stuck.Go(func() {
			if code := d.code("zoe"); code != 454 {
				t.Errorf("a user of the hanging store was told %d, want 454", code)
			}
		})
	}
	for n := range 5 {
		d.mustSend(t, idle, fmt.Sprintf("idle-%d", n))
		c, err := d.server.login("bob")
		if err != nil {
			t.Errorf("a user of another store: %v", err)
			continue
		}
		d.mustSend(t, c, fmt.Sprintf("new-%d", n))
		c.Close()
	}
	others := time.Since(begun)
	stuck.Wait()
	took := time.Since(begun)
	t.Logf("%d logins were told 454 in %v; five others were in and had sent after %v", stuckLogins, took.Round(time.Millisecond), others.Round(time.Millisecond))
	if took > patience {
		t.Errorf("the last 454 came after %v", took)
	}
}

func (d storeDrill) mustSend(t *testing.T, c *client, mark string) {
	t.Helper()
	if r, err := d.book.submit(c, mark, "alice", 0); err != nil || r.Code != 250 {
		t.Errorf("%s: %v, %v", mark, r, err)
	}
}

// code is what a login is told, or 0.
func (d storeDrill) code(user string) int {
	c, err := d.server.connect()
	if err != nil {
		return 0
	}
	defer c.Close()
	r, err := c.auth(user)
	if err != nil {
		return 0
	}
	return r.Code
}

// A hole accepts connections and reads, and says nothing until it is told to.
type hole struct {
	addr      string
	yes       string
	answering atomic.Bool
	listener  net.Listener
	mu        sync.Mutex
	conns     []net.Conn
	readers   sync.WaitGroup
}

func startHole(t *testing.T, network, yes string) *hole {
	t.Helper()
	h := &hole{addr: "127.0.0.1:0", yes: yes}
	if network == "unix" {
		h.addr = filepath.Join(folder(t), "socket")
	}
	var err error
	if h.listener, err = net.Listen(network, h.addr); err != nil {
		t.Fatal(err)
	}
	h.addr = h.listener.Addr().String()
	if network == "unix" {
		kit.Own(t, h.addr)
	}
	h.readers.Go(h.accept)
	t.Cleanup(h.close)
	return h
}

func (h *hole) accept() {
	for {
		c, err := h.listener.Accept()
		if err != nil {
			return
		}
		h.mu.Lock()
		h.conns = append(h.conns, c)
		h.mu.Unlock()
		h.readers.Go(func() { h.read(c) })
	}
}

func (h *hole) read(c net.Conn) {
	for block := make([]byte, 4096); ; {
		if _, err := c.Read(block); err != nil {
			return
		}
		if h.answering.Load() {
			_, _ = io.WriteString(c, h.yes)
		}
	}
}

func (h *hole) close() {
	h.listener.Close()
	h.mu.Lock()
	for _, c := range h.conns {
		c.Close()
	}
	h.mu.Unlock()
	h.readers.Wait()
}
