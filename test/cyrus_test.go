package test

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xdg-go/scram"

	"postern/test/kit"
)

// A cyrusClient submits a message as user, with SCRAM-SHA-256 by Cyrus SASL. errors
// returns the error messages of the client so far.
type cyrusClient struct {
	name  string
	needs []string
	send  func(t *testing.T, p *postern, user, mark string) (errors func() string)
}

var cyrusClients = []cyrusClient{
	{"Postfix", []string{"root", "postfix", "libscram"}, sendByPostfix},
	{"mutt", []string{"mutt", "libscram"}, sendByMutt},
}

// Clients with Cyrus SASL compute at most 65,536 iterations and give up before they send a
// proof if the keys have more. Therefore "postern passwd" uses that number. mutt may have
// been built with GNU SASL, which has no such limit.
func TestScramByCyrusSASL(t *testing.T) {
	t.Parallel()
	s := startSink(t)
	users := filepath.Join(kit.OpenDir(t), "users")
	write(t, users, "carol:"+scramKeys(t, password, 100_000)+"\n")
	setUserfilePassword(t, users, "alice", password)
	p := startPostern(t, posternOptions{
		NextHop:  "smtp://" + s.Addr,
		Sections: map[string]string{"auth": exempt},
		Stores:   fmt.Sprintf("mechanisms = %s\n[[auth.stores]]\nkind = \"userfile\"\npath = %q\n", ownMechanisms, users),
	})
	for _, client := range cyrusClients {
		t.Run(client.name, func(t *testing.T) {
			peer(t, client.needs...)
			logins := len(p.logged("auth ok", "user=alice", "mech=SCRAM-SHA-256"))
			mark := "cyrus-" + client.name
			client.send(t, p, "alice", mark)
			if got := s.wait(t, mark); got.From != "alice@example.org" {
				t.Errorf("sender %q", got.From)
			}
			if n := len(p.logged("auth ok", "user=alice", "mech=SCRAM-SHA-256")); n != logins+1 {
				t.Errorf("%d logins by SCRAM-SHA-256, want %d", n, logins+1)
			}
			errors := client.send(t, p, "carol", "costly-"+mark)
			if client.name == "mutt" && !muttHasCyrus(t) {
				s.wait(t, "costly-"+mark)
				return
			}
			const refusal = "iteration-count is too big"
			kit.Eventually(t, refusal, func() bool { return strings.Contains(errors(), refusal) })
			if n := len(p.logged("auth ok", "user=carol")); n != 0 {
				t.Errorf("%d logins with keys of 100,000 iterations", n)
			}
		})
	}
}

// scramKeys returns the hash for a user file, with keys of this number of iterations.
func scramKeys(t *testing.T, password string, iterations int) string {
	t.Helper()
	client, err := scram.SHA256.NewClient("", password, "")
	kit.Must(t, err)
	salt := make([]byte, 16)
	rand.Read(salt)
	keys, err := client.GetStoredCredentialsWithError(scram.KeyFactors{Salt: string(salt), Iters: iterations})
	kit.Must(t, err)
	text := fmt.Sprintf("{SCRAM-SHA-256}%d", iterations)
	for _, field := range [][]byte{salt, keys.StoredKey, keys.ServerKey} {
		text += "," + base64.StdEncoding.EncodeToString(field)
	}
	return text
}

// sendByPostfix makes a Postfix relay one message to p, as user.
func sendByPostfix(t *testing.T, p *postern, user, mark string) (errors func() string) {
	t.Helper()
	client := startPostfix(t, &sink{port: p.ports[startTLS]}, // its relayhost
		"smtp_tls_security_level = secure",
		"smtp_tls_secure_cert_match = localhost",
		"smtp_tls_CAfile = "+p.ca.File,
		"smtp_sasl_auth_enable = yes",
		"smtp_sasl_password_maps = static:"+user+":"+password,
		"smtp_sasl_mechanism_filter = scram-sha-256",
		"smtp_sasl_security_options = noanonymous",
	)
	c := client.dial(t)
	kit.Must(t, c.wantAll("", "EHLO client.example.org"))
	if r, err := c.submit(letter(mark), "alice@example.org", "bob@example.net"); err != nil || r.Code != 250 {
		t.Fatalf("%v, %v", r, err)
	}
	return client.log
}

// muttHasCyrus reports whether mutt was built with Cyrus SASL.
func muttHasCyrus(t *testing.T) bool {
	t.Helper()
	out, err := command(t, "mutt", "-v").Output()
	kit.Must(t, err)
	return strings.Contains(string(out), "+USE_SASL_CYRUS") || strings.Contains(string(out), "+USE_SASL ")
}

// sendByMutt makes mutt submit one message to p, as user.
func sendByMutt(t *testing.T, p *postern, user, mark string) (errors func() string) {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "muttrc"), fmt.Sprintf(`set smtp_url = "smtp://%s@localhost:%d/"
set smtp_pass = "%s"
set smtp_authenticators = "scram-sha-256"
set ssl_starttls = yes
set ssl_force_tls = yes
set ssl_ca_certificates_file = "%s"
set certificate_file = "%s"
set from = "alice@example.org"
set envelope_from_address = "alice@example.org"
set use_envelope_from = yes
set copy = no
`, user, p.ports[startTLS], password, p.ca.File, p.ca.File))
	cmd := command(t, "mutt", "-n", "-F", filepath.Join(dir, "muttrc"), "-s", mark, "--", "bob@example.net")
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TERM=dumb", "HOME="+dir)
	cmd.Stdin = strings.NewReader("Hello.\n")
	out, err := cmd.CombinedOutput()
	t.Logf("mutt: %v\n%s", err, out)
	return func() string { return string(out) }
}
