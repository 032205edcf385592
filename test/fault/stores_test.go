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

// hangingStores has all kinds of store that use a connection. If a reply is only some
// bytes, the test also has one that accepts the login. Package test checks with the real
// servers that the others recover.
var hangingStores = []struct {
	name, network string
	table         string // a format for the address
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

// A store accepts connections and never replies. Its users get a temporary error within
// the timeout of the store, and other users are not affected.
func TestHangingStore(t *testing.T) {
	t.Parallel()
	for _, h := range hangingStores {
		t.Run(h.name, func(t *testing.T) {
			t.Parallel()
			silent := startSilentServer(t, h.network, h.yes)
			hop := relaytest.New(t, relaytest.Options{})
			users := filepath.Join(folder(t), "users")
			s := newServer(t, hop.URL(), map[string]string{"auth": exempt + fmt.Sprintf(
				"[[auth.stores]]\nkind = \"userfile\"\npath = %q\n[[auth.stores]]\ntimeout = \"1s\"\n"+h.table, users, silent.addr)})
			rename(t, s.file("users"), users)
			s.start(t)
			d := storeTest{server: s, book: newLedger()}
			d.hang(t)
			if h.yes != "" {
				silent.replying.Store(true)
				kit.Eventually(t, "a login of the store's user", func() bool { return d.code("zoe") == 235 })
			}
			d.book.settle(t, hop, 0)
		})
	}
}

// stuckLogins is above the number of logins that a store verifies at once.
const stuckLogins = 24

type storeTest struct {
	server *server
	book   *ledger
}

// hang starts many logins at the hanging store, while other users send messages.
func (d storeTest) hang(t *testing.T) {
	t.Helper()
	idle, err := d.server.login("alice")
	kit.Must(t, err)
	defer idle.Close()
	d.book.mustSubmit(t, idle, "before")
	// Far above the timeout of the store, one second for 20 logins at once, since the
	// machine may be busy; and far below the five minutes that a client waits for a
	// reply (RFC 5321, section 4.5.3.2).
	const patience = time.Minute
	begun := time.Now()
	var stuck sync.WaitGroup
	for range stuckLogins {
		stuck.Go(func() {
			if code := d.code("zoe"); code != 454 {
				t.Errorf("a user of the hanging store got %d, want 454", code)
			}
		})
	}
	for n := range 5 {
		d.book.mustSubmit(t, idle, fmt.Sprintf("idle-%d", n))
		c, err := d.server.login("bob")
		if err != nil {
			t.Errorf("login of a user of another store: %v", err)
			continue
		}
		d.book.mustSubmit(t, c, fmt.Sprintf("new-%d", n))
		c.Close()
	}
	others := time.Since(begun)
	stuck.Wait()
	took := time.Since(begun)
	t.Logf("%d logins got 454 within %v; five other logins and their messages took %v", stuckLogins, took.Round(time.Millisecond), others.Round(time.Millisecond))
	if took > patience {
		t.Errorf("the last 454 came after %v", took)
	}
}

// code returns the reply code of a login, or 0.
func (d storeTest) code(user string) int {
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

// A silentServer accepts connections and reads. It sends nothing until replying is true.
type silentServer struct {
	addr     string
	yes      string
	replying atomic.Bool
	listener net.Listener
	mu       sync.Mutex
	conns    []net.Conn
	readers  sync.WaitGroup
}

func startSilentServer(t *testing.T, network, yes string) *silentServer {
	t.Helper()
	h := &silentServer{addr: "127.0.0.1:0", yes: yes}
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

func (h *silentServer) accept() {
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

func (h *silentServer) read(c net.Conn) {
	for block := make([]byte, 4096); ; {
		if _, err := c.Read(block); err != nil {
			return
		}
		if h.replying.Load() {
			_, _ = io.WriteString(c, h.yes)
		}
	}
}

func (h *silentServer) close() {
	h.listener.Close()
	h.mu.Lock()
	for _, c := range h.conns {
		c.Close()
	}
	h.mu.Unlock()
	h.readers.Wait()
}
