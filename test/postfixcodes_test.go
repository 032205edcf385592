package test

import (
	"crypto/tls"
	"crypto/x509"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"postern/test/kit"
)

const codeScripts = "testdata/postfix"

// Settings that make Postfix and postern alike where both can be configured: a
// submission service, limits, no delays. mx.example.net is the realm of sasldb.
var (
	postfixAsSubmission = []string{
		"myorigin = origin.example",
		"smtpd_sasl_auth_enable = yes",
		"smtpd_sasl_type = cyrus",
		"smtpd_sasl_path = smtpd",
		"smtpd_tls_security_level = encrypt",
		"smtpd_relay_restrictions = permit_sasl_authenticated, reject",
		"smtpd_error_sleep_time = 0",
		"in_flow_delay = 0",          // most messages here end before they are queued
		"smtpd_peername_lookup = no", // without it each client costs a DNS query
		"smtpd_client_connection_count_limit = 0",
		"max_use = 10000",
	}
	posternAsPostfix = map[string]string{
		"server":        "origin = \"origin.example\"\nmessage_size_limit = 10240000",
		"server.limits": "recipients = 1000\nrefused_commands = 20\nconnections_per_client = 1000\nconnections_per_user = 1000",
		"auth":          "penalty_exempt = [\"127.0.0.0/8\"]",
	}
)

// Postfix and postern give the same reply codes to the same command lines, except for the
// listed differences, each of which has a reason. A listed difference that does not exist
// fails the test, too.
func TestPostfixCodes(t *testing.T) {
	t.Parallel()
	peer(t, "root", "saslpasswd2")
	sections := readCodeScripts(t, codeScripts)
	listed, err := readDifferences(filepath.Join(codeScripts, differencesFile))
	kit.Must(t, err)
	s := startSink(t)
	theirs := startCodePostfix(t, s)
	ours := startCodePostern(t, s)
	found := map[codeKey]codeDifference{}
	sessions := 0
	for _, section := range sections {
		maps.Copy(found, compareCodes(t, theirs, ours, section, sessions))
		sessions += len(section.lines)
	}
	reportDifferences(t, found, listed)
}

// reportDifferences fails the test for differences that are found and not listed, in the
// format of the list, and for those that are listed and not found.
func reportDifferences(t *testing.T, found, listed map[codeKey]codeDifference) {
	t.Helper()
	var unlisted, missing []string
	for key, d := range found {
		if listed[key] != d {
			unlisted = append(unlisted, key.String()+"\t"+d.postfix+"\t"+d.postern)
		}
	}
	for key, d := range listed {
		if found[key] != d {
			missing = append(missing, key.String()+"\t"+d.postfix+"\t"+d.postern)
		}
	}
	slices.Sort(unlisted)
	slices.Sort(missing)
	if len(unlisted) > 0 {
		t.Errorf("%d differences are not listed:\n%s", len(unlisted), strings.Join(unlisted, "\n"))
	}
	if len(missing) > 0 {
		t.Errorf("%d differences are listed and do not exist:\n%s", len(missing), strings.Join(missing, "\n"))
	}
}

// startCodePostfix starts a Postfix whose only user is alice.
func startCodePostfix(t *testing.T, s *sink) *codeServer {
	t.Helper()
	p := newPostfix(t, s.port, postfixAsSubmission...)
	p.addSasldb(t, "alice")
	p.start(t)
	return &codeServer{
		name:   "Postfix",
		addrs:  map[tlsMode]string{startTLS: p.Addr, implicitTLS: p.tls},
		config: trust(t, p.CAFile),
	}
}

// addSasldb creates a user in a database of Cyrus SASL. Debian's Postfix reads its
// configuration from a folder below its own.
func (p *postfix) addSasldb(t *testing.T, user string) {
	t.Helper()
	folder, db := filepath.Join(p.conf, "sasl"), filepath.Join(p.conf, "sasldb2")
	kit.Must(t, os.Mkdir(folder, 0o755))
	setSasldb(t, db, user, "mx.example.net", password)
	kit.Must(t, os.Chmod(db, 0o644))
	write(t, filepath.Join(folder, "smtpd.conf"),
		"pwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: "+db+"\nmech_list: PLAIN LOGIN\n")
}

func startCodePostern(t *testing.T, s *sink) *codeServer {
	t.Helper()
	p := startPostern(t, posternOptions{NextHop: "smtp://" + s.Addr, Sections: posternAsPostfix})
	return &codeServer{
		name:   "postern",
		addrs:  map[tlsMode]string{startTLS: p.addr(startTLS), implicitTLS: p.addr(implicitTLS)},
		config: p.tlsConfig(),
	}
}

// compareCodes sends a section to both servers and returns the differences. before is the
// number of client addresses that are already used.
func compareCodes(t *testing.T, theirs, ours *codeServer, section *codeSection, before int) map[codeKey]codeDifference {
	t.Helper()
	runs := [][]codeLine{section.lines}
	if section.each {
		runs = runs[:0]
		for i := range section.lines {
			runs = append(runs, section.lines[i:i+1])
		}
	}
	var (
		mu    sync.Mutex
		all   sync.WaitGroup
		found = map[codeKey]codeDifference{}
		slots = make(chan struct{}, 4) // more would only wait for a processor
	)
	for i, lines := range runs {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			differences, err := compareRun(theirs, ours, section, lines, before+i)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			maps.Copy(found, differences)
		})
	}
	all.Wait()
	return found
}

// compareRun compares one session, up to the line at which one of the servers closes the
// connection.
func compareRun(theirs, ours *codeServer, section *codeSection, lines []codeLine, n int) (map[codeKey]codeDifference, error) {
	a, err := theirs.run(section, lines, n)
	if err != nil {
		return nil, err
	}
	b, err := ours.run(section, lines, n)
	if err != nil {
		return nil, err
	}
	found := map[codeKey]codeDifference{}
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			found[codeKey{section.file, section.name, lines[i].key}] = codeDifference{postfix: a[i], postern: b[i]}
		}
	}
	return found, nil
}

// trust returns a client configuration that trusts the certificates of one file.
func trust(t *testing.T, file string) *tls.Config {
	t.Helper()
	text, err := os.ReadFile(file)
	kit.Must(t, err)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		t.Fatalf("%s has no certificate", file)
	}
	return &tls.Config{RootCAs: pool, ServerName: "localhost"}
}
