package test

import (
	"cmp"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"postern/test/kit"
)

// The reasons why postern completes fewer addresses than Postfix.
const (
	author      = "the field has an author with a domain"
	displayName = "the word is part of an unquoted display name"
	encodedWord = "an encoded word is never an address"
	quoted      = "a quoted string is never an address"
	beyondASCII = "text outside ASCII is never an address"
	phrase      = "words without an address are ambiguous"
	routed      = "a source route, in any form, is left to the next hop"
	malformed   = "a malformed list is not changed"
	folding     = "Postfix unfolds a field that it changes"
)

// addressFields has header fields as submitted, as postern sends them, and as Postfix 3.7
// sends them for a client in local_header_rewrite_clients. "" is an unchanged value.
var addressFields = []struct{ name, in, postern, postfix, reason string }{
	{"From", "alice", "alice@example.org", "alice@example.org", ""},
	{"From", "<alice>", "<alice@example.org>", "<alice@example.org>", ""},
	{"From", "Alice <alice>", "Alice <alice@example.org>", "Alice <alice@example.org>", ""},
	{"From", "alice, bob", "alice@example.org, bob@example.org", "alice@example.org, bob@example.org", ""},
	{"From", "alice, bob@example.net", "", "alice@example.org, bob@example.net", author},
	{"From", "Smith, John <john@example.net>", "", "Smith@example.org, John <john@example.net>", author},
	{"From", "Smith, John <john>", "Smith, John <john@example.org>", "Smith@example.org, John <john@example.org>", displayName},
	{"From", "Smith,\r\n\tJohn <john@example.net>", "", "Smith@example.org, John <john@example.net>", author},
	{"From", "=?utf-8?q?Smith,_John?= <john@example.net>", "", "=?utf-8?q?Smith@example.org, _John?= <john@example.net>", encodedWord},
	{"From", `"alice"`, "", "alice@example.org", quoted},
	{"Sender", "alice", "alice@example.org", "alice@example.org", ""},
	{"Sender", "Smith, John <john@example.net>", "", "Smith@example.org, John <john@example.net>", author},
	{"Reply-To", "alice", "alice@example.org", "alice@example.org", ""},
	{"Reply-To", "Smith, John <john@example.net>", "", "Smith@example.org, John <john@example.net>", author},
	{"Resent-From", "Smith, John <john@example.net>", "", "Smith@example.org, John <john@example.net>", author},
	{"To", "alice", "alice@example.org", "alice@example.org", ""},
	{"To", "alice (Alice), bob@example.net", "alice@example.org (Alice), bob@example.net", "alice@example.org (Alice), bob@example.net", ""},
	{"To", "alice,\r\n\tbob@example.net", "alice@example.org,\r\n\tbob@example.net", "alice@example.org, bob@example.net", folding},
	{"To", "alice, <bob@example.net>", "alice@example.org, <bob@example.net>", "alice@example.org, <bob@example.net>", ""},
	{"To", "Team: alice, bob;", "Team: alice@example.org, bob@example.org;", "Team: alice@example.org, bob@example.org;", ""},
	{"To", "undisclosed-recipients:;", "", "", ""},
	{"To", "<>", "", "", ""},
	{"To", "John Q. Public <john@example.net>", "", "", ""},
	{"To", `"Smith, John" <john@example.net>`, "", "", ""},
	{"To", "Smith, John <john@example.net>", "", "Smith@example.org, John <john@example.net>", displayName},
	{"To", `Smith, "John" <john@example.net>`, "", `Smith@example.org, "John" <john@example.net>`, displayName},
	{"To", "Smith, Dr., John <john@example.net>", "", `Smith@example.org, "Dr."@example.org, John <john@example.net>`, displayName},
	{"To", "van der Berg, Jan <jan@example.net>", "", "van@example.org, der@example.org, Berg@example.org,\r\n\tJan <jan@example.net>", displayName},
	{"To", "alice, bob, Carol <carol@example.net>", "alice@example.org, bob, Carol <carol@example.net>",
		"alice@example.org, bob@example.org, Carol <carol@example.net>", displayName},
	{"To", "Team: Smith, John <john@example.net>;", "", "Team: Smith@example.org, John <john@example.net>;", displayName},
	{"To", "John Q. Public", "", "John@example.org, Q.Public@example.org", phrase},
	{"To", "Dr. Smith", "", "Dr.Smith@example.org", phrase},
	{"To", "bob.", "", `"bob."@example.org`, malformed},
	{"To", `"Smith, John"`, "", `"Smith, John"@example.org`, quoted},
	{"To", `Bob <"bob">`, "", "Bob <bob@example.org>", quoted},
	{"To", "=?utf-8?q?Smith,_John?= <john@example.net>", "", "=?utf-8?q?Smith@example.org, _John?= <john@example.net>", encodedWord},
	{"To", "=?utf-8?q?Smith,_John?= <john>", "=?utf-8?q?Smith,_John?= <john@example.org>",
		"=?utf-8?q?Smith@example.org, _John?= <john@example.org>", encodedWord},
	{"To", "=?utf-8?q?Smith?=", "", "=?utf-8?q?Smith?=@example.org", encodedWord},
	{"To", "Müller, Jörg <joerg@example.net>", "", "Müller@example.org, Jörg <joerg@example.net>", beyondASCII},
	{"To", "Smith; John <john@example.net>", "", "Smith@example.org;John <john@example.net>", malformed},
	{"To", "alice; bob@example.net", "", "alice@example.org;, bob@example.net", malformed},
	{"To", "alice, <bob", "", `alice@example.org, "<bob"@example.org`, malformed},
	{"To", "<@hub.example.net:bob>", "", "<bob@example.org>", routed},
	{"To", "<@hub.example.net:bob@example.net>", "", "<bob@example.net>", routed},
	{"To", "host!bob, bob%host", "", "bob@host, bob@host", routed},
	{"Cc", "Smith, John <john@example.net>", "", "Smith@example.org, John <john@example.net>", displayName},
	{"Resent-To", "Smith, John <john@example.net>", "", "Smith@example.org, John <john@example.net>", displayName},
}

// postern completes the addresses that Postfix completes, except for words that may be part
// of a display name, and fields that it cannot parse.
func TestAddressFieldsLikePostfix(t *testing.T) {
	t.Parallel()
	s := startSink(t)
	hop := startPostfix(t, s, "myorigin = example.org")
	p := startPostern(t, posternOptions{NextHop: "smtp://" + s.Addr, Sections: map[string]string{"server": `origin = "example.org"`}})
	direct := hop.dial(t)
	kit.Must(t, direct.wantAll("", "EHLO client.example.org"))
	ours := addressFieldsAfter(t, p.mustLogin(t, "alice"), s, "through-postern")
	theirs := addressFieldsAfter(t, direct, s, "through-postfix")
	for i, c := range addressFields {
		postern, postfix := c.name+": "+cmp.Or(c.postern, c.in), c.name+": "+cmp.Or(c.postfix, c.in)
		if ours[i] != postern {
			t.Errorf("%s: %s\npostern sends %q\nwant          %q", c.name, c.in, ours[i], postern)
		}
		if theirs[i] != postfix {
			t.Errorf("%s: %s\nPostfix sends %q\nwant          %q", c.name, c.in, theirs[i], postfix)
		}
		if (c.reason == "") != (postern == postfix) {
			t.Errorf("%s: %s\neach difference must have a reason, and nothing else: %q", c.name, c.in, c.reason)
		}
	}
}

// addressFieldsAfter submits all addressFields in one header and returns them as they
// arrive.
func addressFieldsAfter(t *testing.T, c *submitter, s *sink, mark string) []string {
	t.Helper()
	text := "Date: Sun, 01 Nov 2026 12:00:00 +0000\r\nMessage-ID: <" + mark + "@example.org>\r\nSubject: first\r\n"
	for _, f := range addressFields {
		text += f.name + ": " + f.in + "\r\n"
	}
	kit.Must(t, accepted(c.submit(text+"\r\nHello.\r\n", "alice@example.org", "bob@example.net")))
	header, _, _ := strings.Cut(string(s.wait(t, mark).Data), "\r\n\r\n")
	_, rest, _ := strings.Cut(header, "\r\nSubject: first\r\n")
	var fields []string
	for line := range strings.SplitSeq(rest, "\r\n") {
		if strings.HasPrefix(line, "\t") && len(fields) > 0 {
			fields[len(fields)-1] += "\r\n" + line
		} else {
			fields = append(fields, line)
		}
	}
	if len(fields) < len(addressFields) {
		t.Fatalf("%d fields of %d arrived:\n%s", len(fields), len(addressFields), header)
	}
	return fields
}

// A Postfix with default settings rewrites the header that postern has signed. With the
// setting of the migration guide the header and the signatures arrive unchanged.
func TestPostfixRewritesHeaders(t *testing.T) {
	t.Parallel()
	k := newDKIMKeys(t)
	s := startSink(t)
	hop := startPostfix(t, s)
	p := startPostern(t, posternOptions{NextHop: hop.URL, Sections: map[string]string{"relay": k.tables()}})
	arrived := func(mark string) (from string, verification error) {
		t.Helper()
		text := strings.Replace(letter(mark), "Alice <alice@example.org>", "Smith, John <john@example.org>", 1)
		kit.Must(t, accepted(p.mustLogin(t, "alice").submit(text, "john@example.org", "bob@example.net")))
		data := s.wait(t, mark).Data
		_, rest, _ := strings.Cut(string(data), "\r\nFrom: ")
		from, _, _ = strings.Cut(rest, "\r\n")
		out, err := k.verify(t, data)
		if err == nil && sorted(out) != bothAlgorithms {
			err = fmt.Errorf("verified: %q", out)
		}
		return from, err
	}
	from, err := arrived("rewritten")
	if from != "Smith@mx.example.net, John <john@example.org>" || err == nil {
		t.Errorf("with the default of local_header_rewrite_clients: From: %s; verification: %v", from, err)
	}
	hop.stop(t)
	set := exec.Command("postconf", "-c", hop.conf, "-P", hop.Addr+"/inet/local_header_rewrite_clients=")
	if out, err := set.CombinedOutput(); err != nil {
		t.Fatalf("postconf: %v: %s", err, out)
	}
	hop.start(t)
	from, err = arrived("untouched")
	if from != "Smith, John <john@example.org>" || err != nil {
		t.Errorf("without local_header_rewrite_clients: From: %s; verification: %v", from, err)
	}
}
