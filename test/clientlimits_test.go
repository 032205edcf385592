package test

import (
	"bytes"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"postern/test/kit"
)

// limits.recipients limits the recipients of a message, not whether it is sent: clients
// continue after 452 (RFC 5321, section 4.5.3.1.10), and the message reaches the first
// recipients up to the limit.
func TestManyRecipients(t *testing.T) {
	t.Parallel()
	const limit, count = 1000, 1200
	s := startSink(t)
	p := startPostern(t, posternOptions{
		NextHop:  "smtp://" + s.Addr,
		Sections: map[string]string{"server.limits": fmt.Sprintf("recipients = %d", limit)},
	})
	clients := []struct {
		name    string
		needs   []string
		program []string
	}{
		{"smtplib", []string{"python3"}, []string{python, "testdata/many.py"}},
		{"nodemailer", []string{"node", "nodemailer"}, []string{"node", "testdata/many.cjs"}},
	}
	for _, client := range clients {
		t.Run(client.name, func(t *testing.T) {
			peer(t, client.needs...)
			sub := newSubmission(t, p, implicitTLS)
			cmd := command(t, client.program[0], append(client.program[1:], string(sub.mode), sub.port, sub.ca,
				sub.user, sub.password, sub.from, "example.net", fmt.Sprint(count), sub.message)...)
			cmd.Env = append(cmd.Env, nodeEnv()...)
			refused := strings.Fields(output(t, cmd))
			if want := numbered(limit+1, count, "452", "r%d@example.net"); !slices.Equal(refused, want) {
				t.Errorf("%d words of output about refused recipients, want %d: %.200q", len(refused), len(want), refused)
			}
			to := s.wait(t, sub.mark()).To
			if want := numbered(1, limit, "r%d@example.net"); !slices.Equal(to, want) {
				t.Errorf("the message reached %d recipients, want the first %d", len(to), len(want))
			}
		})
	}
}

// numbered returns the formats once for each number from first to last; formats without
// a verb are repeated unchanged.
func numbered(first, last int, formats ...string) []string {
	var all []string
	for n := first; n <= last; n++ {
		for _, format := range formats {
			all = append(all, strings.ReplaceAll(format, "%d", fmt.Sprint(n)))
		}
	}
	return all
}

// output runs a client and returns its output.
func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var errors bytes.Buffer
	cmd.Stderr = &errors
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", cmd.Args[0], err, out, errors.String())
	}
	return string(out)
}

// Envelopes that real clients send although RFC 5321 does not allow all of them. The
// message arrives as it was sent.
func TestClientEnvelopes(t *testing.T) {
	t.Parallel()
	s := startSink(t)
	p := startPostern(t, posternOptions{NextHop: startPostfix(t, s).URL})
	long := strings.Repeat("a", 90) + "@example.org"
	cases := []struct {
		name    string
		needs   string
		address string // of the sender
		command func(t *testing.T, s submission) *exec.Cmd
	}{
		// curl sends AUTH=<alice@example.org>, with brackets.
		{"curl with --mail-auth", "curl", "alice@example.org", with(curl, "--mail-auth", "alice@example.org")},
		{"curl with --mail-auth and no address", "curl", "alice@example.org", with(curl, "--mail-auth", "")},
		// Bounce addresses of mailing lists exceed the 64 octets of RFC 5321, section 4.5.3.1.1.
		{"swaks with a local part of 90 octets", "swaks", long, swaks("PLAIN")},
		{"msmtp with a local part of 90 octets", "msmtp", long, msmtp},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			peer(t, c.needs)
			sub := newSubmission(t, p, startTLS)
			sub.from = c.address
			runClient(t, c.command(t, sub))
			if got := s.wait(t, sub.mark()); got.From != c.address || !slices.Equal(got.To, []string{sub.to}) {
				t.Errorf("envelope is %q to %q, want %q to %q", got.From, got.To, c.address, sub.to)
			}
		})
	}
}

// with appends arguments to the command of a client.
func with(client func(*testing.T, submission) *exec.Cmd, args ...string) func(*testing.T, submission) *exec.Cmd {
	return func(t *testing.T, s submission) *exec.Cmd {
		cmd := client(t, s)
		cmd.Args = append(cmd.Args, args...)
		return cmd
	}
}

// A password that is not UTF-8: it was set with another encoding, and clients send the
// same bytes.
func TestClientLatin1Password(t *testing.T) {
	t.Parallel()
	const latin1 = "p\xe4ssw\xf6rt"
	hash, err := bcrypt.GenerateFromPassword([]byte(latin1), bcrypt.MinCost)
	kit.Must(t, err)
	s := startSink(t)
	p := newPostern(t, posternOptions{NextHop: "smtp://" + s.Addr})
	write(t, p.file("users"), "alice:"+string(hash)+"\n")
	p.run(t)
	for _, client := range []mailClient{
		{"swaks PLAIN", []string{"swaks"}, swaks("PLAIN")},
		{"swaks LOGIN", []string{"swaks"}, swaks("LOGIN")},
		{"msmtp", []string{"msmtp"}, msmtp},
		{"curl", []string{"curl"}, curl},
	} {
		t.Run(client.name, func(t *testing.T) {
			peer(t, client.needs...)
			sub := newSubmission(t, p, startTLS)
			sub.password = latin1
			runClient(t, client.command(t, sub))
			s.wait(t, sub.mark())
		})
	}
}

// A client that connects to the port with implicit TLS when a limit is reached
// receives 421 after the handshake: before it, a mail client would report a
// broken TLS connection instead of a busy server.
func TestConnectionLimitWithinTLS(t *testing.T) {
	t.Parallel()
	for _, limit := range []string{"connections", "connections_per_client"} {
		t.Run(limit, func(t *testing.T) {
			p := startPostern(t, posternOptions{
				NextHop:  "smtp://" + startSink(t).Addr,
				Sections: map[string]string{"server.limits": limit + " = 1"},
			})
			p.occupy(t)
			port := fmt.Sprint(p.ports[implicitTLS])
			t.Run("openssl", func(t *testing.T) {
				peer(t, "openssl")
				cmd := command(t, "openssl", "s_client", "-quiet", "-verify_return_error", "-verify_hostname", "localhost",
					"-CAfile", p.ca.File, "-connect", "127.0.0.1:"+port)
				wantBusy(t, output(t, cmd))
			})
			t.Run("smtplib", func(t *testing.T) {
				peer(t, "python3")
				wantBusy(t, output(t, command(t, python, "testdata/connect.py", port, p.ca.File)))
			})
			t.Run("STARTTLS port", func(t *testing.T) {
				conn, err := dialFrom(nil, p.addr(startTLS))
				kit.Must(t, err)
				c := newSubmitter(conn)
				defer c.Close()
				if err := c.want(421, ""); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// occupy keeps a connection open until the end of the test. It retries, since the
// connections of startPostern may not be closed yet.
func (p *postern) occupy(t *testing.T) {
	t.Helper()
	kit.Eventually(t, "a connection", func() bool {
		c, err := p.connect(implicitTLS, nil)
		if err != nil {
			return false
		}
		t.Cleanup(c.Close)
		return true
	})
}

func wantBusy(t *testing.T, got string) {
	t.Helper()
	if !strings.HasPrefix(got, "421 ") {
		t.Errorf("the client received %q, want 421", got)
	}
}
