package test

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"postern/test/kit"
)

// The results of a connection of openssl s_client.
const (
	noTicket  = "a new session without a ticket"
	newTicket = "a new session with a ticket"
	reused    = "the old session"
)

// resume connects, sends QUIT, and waits until the server has closed the connection, so
// that a ticket that follows the handshake has arrived. It offers the session in the
// file, if the file exists, and stores the new session there.
func (p *postern) resume(t *testing.T, mode tlsMode, version, session string) string {
	t.Helper()
	args := []string{"s_client", "-connect", p.addr(mode), "-CAfile", p.ca.File, "-verify_return_error", "-ign_eof", version}
	if mode == startTLS {
		args = append(args, "-starttls", "smtp")
	}
	if _, err := os.Stat(session); err == nil {
		args = append(args, "-sess_in", session)
	}
	fresh := session + ".new"
	cmd := command(t, "openssl", append(args, "-sess_out", fresh)...)
	cmd.Stdin = strings.NewReader("QUIT\r\n")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("openssl: %v\n%s", err, out)
	}
	text := string(out)
	again := strings.Contains(text, "\nReused, TLSv1.")
	if again == strings.Contains(text, "\nNew, TLSv1.") || !strings.Contains(text, "\n221 ") {
		t.Fatalf("openssl did not finish a session:\n%s", out)
	}
	err = os.Rename(fresh, session) // openssl writes it for each ticket of TLS 1.3 and each new one of TLS 1.2
	switch {
	case again:
		return reused
	case err == nil:
		return newTicket
	}
	return noTicket
}

// setTickets reloads the configuration with tls.session_tickets set.
func (p *postern) setTickets(t *testing.T, value string) {
	t.Helper()
	before := len(p.logged("msg=reloaded"))
	p.opts.Sections = map[string]string{"tls": "session_tickets = " + value}
	p.configure(t, "")
	p.own(t)
	p.signal(t, syscall.SIGHUP)
	kit.Eventually(t, "the reload", func() bool { return len(p.logged("msg=reloaded")) > before })
}

// With tls.session_tickets = false a client gets no ticket and cannot use an older one. A
// reload changes the setting for new connections.
func TestSessionTickets(t *testing.T) {
	t.Parallel()
	peer(t, "openssl")
	p := startPostern(t, posternOptions{
		NextHop:  "smtp://" + startSink(t).Addr,
		Sections: map[string]string{"tls": "session_tickets = false"},
	})
	type client struct {
		mode    tlsMode
		version string
	}
	var clients []client
	for _, mode := range []tlsMode{startTLS, implicitTLS} {
		clients = append(clients, client{mode, "-tls1_2"}, client{mode, "-tls1_3"})
	}
	folder := t.TempDir()
	check := func(when, want string) {
		t.Helper()
		for _, c := range clients {
			if got := p.resume(t, c.mode, c.version, folder+"/"+string(c.mode)+c.version); got != want {
				t.Errorf("%s, %s %s: got %s, want %s", when, c.mode, c.version, got, want)
			}
		}
	}
	check("off", noTicket)
	p.setTickets(t, "true")
	check("on, first connection", newTicket)
	check("on, second connection", reused)
	p.setTickets(t, "false")
	check("off again, with a ticket", noTicket)
	p.setTickets(t, "true")
	check("on again, with the ticket from before", reused)
}
