package dovecot

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/server/auth"
	"postern/server/auth/throttle"
	"postern/test/kit"
)

func TestMain(m *testing.M) { os.Exit(kit.Main(m)) }

const goodGreeting = "VERSION\t1\t2\n" +
	"MECH\tPLAIN\tplaintext\nMECH\tLOGIN\tplaintext\nMECH\tCRAM-MD5\tdictionary\tactive\n" +
	"MECH\tSCRAM-SHA-256\tmutual-auth\nMECH\tSCRAM-SHA-256-PLUS\tmutual-auth\tchannel-binding\n" +
	"MECH\tAPOP\tprivate\tdictionary\tactive\nMECH\tANONYMOUS\tanonymous\nMECH\tEXTERNAL\n" +
	"SPID\t31957\nCUID\t1\nCOOKIE\tb5ddb3c07eeda5eab506b01cb8626088\nDONE\n"

// A fake imitates Dovecot. It sends the greeting on each connection, and calls answer
// for each line that it receives.
type fake struct {
	path string
	lis  net.Listener
	work sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn
	lines []string // received, with the client's greeting
}

// A script answers one line, given by its fields.
type script func(w io.Writer, fields []string)

func startFake(t testing.TB, greeting string, answer script) *fake {
	t.Helper()
	f := &fake{path: filepath.Join(t.TempDir(), "auth")}
	f.listen(t, greeting, answer)
	t.Cleanup(f.stop)
	return f
}

func (f *fake) listen(t testing.TB, greeting string, answer script) {
	t.Helper()
	lis, err := net.Listen("unix", f.path)
	if err != nil {
		t.Fatal(err)
	}
	f.lis = lis
	f.work.Go(func() {
		for {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.conns = append(f.conns, c)
			f.mu.Unlock()
			f.work.Go(func() { f.serve(c, greeting, answer) })
		}
	})
}

func (f *fake) serve(c net.Conn, greeting string, answer script) {
	defer c.Close()
	if _, err := io.WriteString(c, greeting); err != nil {
		return
	}
	in := bufio.NewReader(c)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		f.mu.Lock()
		f.lines = append(f.lines, line)
		f.mu.Unlock()
		fields := splitLine([]byte(strings.TrimSuffix(line, "\n")))
		if answer != nil && fields[0] != "VERSION" && fields[0] != "CPID" {
			answer(c, fields)
		}
	}
}

func (f *fake) stop() {
	f.lis.Close()
	f.hangUp()
	f.work.Wait()
}

// hangUp closes all connections.
func (f *fake) hangUp() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		c.Close()
	}
	f.conns = nil
}

// received returns the lines that begin with the verb.
func (f *fake) received(verb string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var found []string
	for _, line := range f.lines {
		if strings.HasPrefix(line, verb+"\t") {
			found = append(found, line)
		}
	}
	return found
}

// store returns a store that connects to the fake.
func (f *fake) store(t testing.TB) *Store {
	t.Helper()
	s := New(Config{Path: Address{"unix", f.path}}, auth.NewLog(slog.New(slog.DiscardHandler)))
	t.Cleanup(func() { s.Close() })
	return s
}

// shortTimeout is the timeout in tests in which no answer arrives.
const shortTimeout = 500 * time.Millisecond

// proxy returns a proxy that is connected to the fake, with the default options.
func (f *fake) proxy(t testing.TB) Proxy {
	t.Helper()
	p := Proxy{
		Store:    f.store(t),
		Throttle: newThrottle(),
		Options:  auth.DefaultSecurityOptions(),
		Calls:    auth.NewCalls(kit.Patience, 20),
	}
	// The first connection is made in the background.
	if _, err := p.link.connection(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

// send returns a script that sends lines. %ID is the number of the exchange.
func send(lines ...string) script {
	return func(w io.Writer, fields []string) {
		for _, line := range lines {
			_, _ = io.WriteString(w, strings.ReplaceAll(line, "%ID", fields[1])) // fails if the client has disconnected
		}
	}
}

// knowsAlice accepts alice with the password "secret", by PLAIN.
func knowsAlice(w io.Writer, fields []string) {
	if fields[0] != "AUTH" {
		return
	}
	resp, _ := params(fields).get("resp")
	if message, _ := base64.StdEncoding.DecodeString(resp); string(message) == "\x00alice\x00secret" {
		send("OK\t%ID\tuser=alice@example.org\n")(w, fields)
		return
	}
	send("FAIL\t%ID\tuser=someone\n")(w, fields)
}

// peer returns a client that uses TLS.
func peer() *auth.Peer {
	return &auth.Peer{
		Remote:  netip.MustParseAddrPort("192.0.2.7:50000"),
		Local:   netip.MustParseAddrPort("[2001:db8::1]:587"),
		TLS:     &tls.ConnectionState{},
		Session: "s1",
	}
}

// verify calls VerifyPassword with a generous deadline.
func verify(t testing.TB, s *Store, login, password string) (auth.Identity, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	return s.VerifyPassword(ctx, peer(), login, password)
}

// wantLine fails the test if lines do not contain want.
func wantLine(t testing.TB, lines []string, want string) {
	t.Helper()
	if !slices.Contains(lines, want) {
		t.Errorf("Dovecot received %q, want %q among them", lines, want)
	}
}

// newThrottle returns a throttle with the default wait.
func newThrottle() *throttle.Throttle {
	return throttle.New(throttle.Config{MaxWait: 30 * time.Second})
}
