package test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern/test/kit"
)

// accessProbes are the addresses besides the keys of the table.
var accessProbes = []string{
	"", "nobody@example.org", "a@example.net", "a@sub.example.net", "a@b.sub.example.net", "a@other.example.net",
	"a@notexample.net", "a@example.com", "a@b.example.com", "a@example.co.uk", "anybody@example.info", "anybody@example.net",
	"ANYBODY@example.info", "mixed@example.edu", "MIXED@EXAMPLE.EDU", `"mixed"@example.edu`, `"quoted user"@example.edu`,
	`"quoted\ user"@example.edu`, "plain@example.edu", "text+ext@example.org", "a@[192.0.2.1]", "text", "a%b@sub.example.net", "text@example.org.",
	"a@xn--bcher-kva.example",
}

// TestAccessTables gives the same table to Postfix and to postern, for check_sender_access and
// for check_recipient_access, and compares the replies to MAIL and RCPT: the codes, the text of
// a refusal, and whether the connection is closed. The address in the text is not compared,
// since Postfix shows it without quotes and with the final dot of its domain.
func TestAccessTables(t *testing.T) {
	t.Parallel()
	peer(t, "root", "postfix")
	table := accessTable(t)
	s := startSink(t)
	theirs := startPostfix(t, s, "myorigin = example.org",
		"smtpd_sender_restrictions = check_sender_access texthash:"+table,
		"smtpd_recipient_restrictions = check_recipient_access texthash:"+table+", warn_if_reject reject",
		"smtpd_peername_lookup = no", "smtpd_error_sleep_time = 0", "smtpd_hard_error_limit = 1000", "smtpd_tls_auth_only = no",
		"smtpd_reject_unlisted_recipient = no", "mydestination = example.net")
	ours := startPostern(t, posternOptions{NextHop: "smtp://" + s.Addr, Sections: map[string]string{
		"server":        `origin = "example.org"`,
		"server.limits": "refused_commands = 1000\nmessages = 1000\nconnections_per_client = 1000\nconnections_per_user = 1000",
		"policy": fmt.Sprintf("sender = \"check_sender_access texthash:%s\"\nrecipient = \"check_recipient_access texthash:%[1]s, warn_if_reject reject\"\n"+
			"local_domains = \"example.net\"", table),
	}})
	a, b := &accessPeer{connect: func() (*submitter, error) { return dialPostfix(theirs) }}, &accessPeer{connect: func() (*submitter, error) {
		return ours.login("alice", nil)
	}}
	for _, address := range accessAddresses(t, table) {
		for _, c := range []struct{ from, to string }{{address, "nobody@example.org"}, {"nobody@example.org", address}} {
			if c.to == "" {
				continue
			}
			want, got := a.probe(t, c.from, c.to), b.probe(t, c.from, c.to)
			if want != got {
				t.Errorf("from <%s> to <%s>:\nPostfix  %s\npostern  %s", c.from, c.to, want, got)
			}
		}
	}
}

// accessTable copies the table to where the user postfix can read it.
func accessTable(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("testdata/access/table")
	kit.Must(t, err)
	path := filepath.Join(kit.OpenDir(t), "table")
	write(t, path, string(text))
	return path
}

// accessAddresses are the full addresses among the keys of a table, and accessProbes.
func accessAddresses(t *testing.T, table string) []string {
	t.Helper()
	f, err := os.Open(table)
	kit.Must(t, err)
	defer f.Close()
	addresses := accessProbes
	for lines := bufio.NewScanner(f); lines.Scan(); {
		key, _, _ := strings.Cut(lines.Text(), " ")
		if i := strings.Index(key, "@"); i > 0 && i < len(key)-1 && !strings.HasPrefix(key, "#") {
			addresses = append(addresses, key)
		}
	}
	if len(addresses) < 50 {
		t.Fatalf("only %d addresses: the table was not read", len(addresses))
	}
	return addresses
}

func dialPostfix(p *postfix) (*submitter, error) {
	conn, err := net.DialTimeout("tcp", p.Addr, kit.Patience)
	if err != nil {
		return nil, err
	}
	c := newSubmitter(conn)
	return c, c.wantAll("", "EHLO client.example.org")
}

// An accessPeer is one of the two servers, with a connection that is opened again after a reply
// that closes it.
type accessPeer struct {
	connect func() (*submitter, error)
	c       *submitter
}

// probe returns the first refusal of MAIL and RCPT, or the code of the acceptance.
func (p *accessPeer) probe(t *testing.T, from, to string) string {
	t.Helper()
	if p.c == nil {
		var err error
		if p.c, err = p.connect(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.c.Close)
	}
	var r kit.Reply
	for _, line := range []string{"MAIL FROM:<" + from + ">", "RCPT TO:<" + to + ">"} {
		var err error
		if r, err = p.c.Ask(line); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if r.Code >= 400 {
			break
		}
	}
	closed := ""
	if _, err := p.c.Ask("RSET"); err != nil {
		p.c, closed = nil, ", closed"
	}
	if r.Code < 400 {
		return fmt.Sprint(r.Code, closed)
	}
	before, text, _ := strings.Cut(r.Text, ">: ")
	enhanced, _, _ := strings.Cut(before, " ")
	return fmt.Sprint(r.Code, " ", enhanced, " ", text, closed)
}

// TestAccessTableDuplicate: a duplicate key makes a table unusable for Postfix's smtpd, for all
// addresses. postern does not start with it.
func TestAccessTableDuplicate(t *testing.T) {
	t.Parallel()
	peer(t, "root", "postfix")
	s := startSink(t)
	table := filepath.Join(kit.OpenDir(t), "table")
	write(t, table, "example.org OK\nexample.net OK\nEXAMPLE.ORG REJECT\n")
	theirs := startPostfix(t, s, "smtpd_sender_restrictions = check_sender_access texthash:"+table)
	p := &accessPeer{connect: func() (*submitter, error) { return dialPostfix(theirs) }}
	const want = "451 4.3.5 Sender address rejected: Server configuration error"
	if got := p.probe(t, "alice@example.net", "bob@example.com"); got != want {
		t.Errorf("Postfix: %s, want %s", got, want)
	}
	ours := newPostern(t, posternOptions{NextHop: "smtp://" + s.Addr, Sections: map[string]string{
		"policy": fmt.Sprintf("sender = \"check_sender_access texthash:%s\"", table),
	}})
	out, err := ours.command(t, "check", "--config", ours.file("config.toml")).CombinedOutput()
	if reason := table + `: line 3 has the duplicate key "example.org"`; err == nil || !strings.Contains(string(out), reason) {
		t.Errorf("postern check: %v, want %q in\n%s", err, reason, out)
	}
}
