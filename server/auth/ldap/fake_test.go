package ldap

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"

	"postern/server/auth"
	"postern/test/kit"
)

// A fake is a server that answers requests by a script. It records the requests, each after
// the number of its connection.
type fake struct {
	t        *testing.T
	listener net.Listener
	script   func(*fakeConn, request) // answers one request

	mu    sync.Mutex
	conns []net.Conn
	log   []string
	wait  sync.WaitGroup
}

type fakeConn struct {
	net.Conn
	fake   *fake
	number int
}

// A request is one parsed request.
type request struct {
	id       int64
	tag      ber.Tag
	name     string // of a bind, or the base of a search
	password string
	filter   string
}

func startFake(t *testing.T, script func(*fakeConn, request)) *fake {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{t: t, listener: l, script: script}
	f.wait.Go(f.accept)
	t.Cleanup(f.stop)
	return f
}

func (f *fake) url() string { return "ldap://" + f.listener.Addr().String() }

func (f *fake) stop() {
	f.listener.Close()
	f.hangUp()
	f.wait.Wait()
}

// hangUp closes all connections.
func (f *fake) hangUp() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		c.Close()
	}
}

func (f *fake) accept() {
	for {
		c, err := f.listener.Accept()
		if err != nil {
			return
		}
		f.mu.Lock()
		f.conns = append(f.conns, c)
		number := len(f.conns)
		f.mu.Unlock()
		f.wait.Go(func() { f.serve(&fakeConn{c, f, number}) })
	}
}

func (f *fake) serve(c *fakeConn) {
	defer c.Close()
	for {
		packet, err := ber.ReadPacket(c)
		if err != nil {
			return
		}
		q := parseRequest(packet)
		f.record(c.number, q)
		f.script(c, q)
	}
}

func parseRequest(packet *ber.Packet) request {
	op := packet.Children[1]
	q := request{id: packet.Children[0].Value.(int64), tag: op.Tag}
	switch op.Tag {
	case ldap.ApplicationBindRequest:
		q.name = op.Children[1].Value.(string)
		q.password = op.Children[2].Data.String()
	case ldap.ApplicationSearchRequest:
		q.name = op.Children[0].Value.(string)
		q.filter, _ = ldap.DecompileFilter(op.Children[6])
	}
	return q
}

func (f *fake) record(number int, q request) {
	what := map[ber.Tag]string{
		ldap.ApplicationBindRequest:     "bind " + q.name,
		ldap.ApplicationSearchRequest:   "search " + q.filter,
		ldap.ApplicationUnbindRequest:   "unbind",
		ldap.ApplicationExtendedRequest: "extended",
	}[q.tag]
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, fmt.Sprintf("%d: %s", number, strings.TrimSpace(what)))
}

// requests returns the recorded requests without unbind, whose time is not determined.
func (f *fake) requests() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(f.log), func(n string) bool { return strings.HasSuffix(n, "unbind") })
}

// connections returns the number of connections so far.
func (f *fake) connections() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.conns)
}

// done sends the result of q.
func (c *fakeConn) done(q request, code int64, text string, controls ...*ber.Packet) {
	tag := map[ber.Tag]ber.Tag{
		ldap.ApplicationBindRequest:     ldap.ApplicationBindResponse,
		ldap.ApplicationSearchRequest:   ldap.ApplicationSearchResultDone,
		ldap.ApplicationExtendedRequest: ldap.ApplicationExtendedResponse,
	}[q.tag]
	op := ber.Encode(ber.ClassApplication, ber.TypeConstructed, tag, nil, "")
	op.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagEnumerated, code, ""))
	op.AppendChild(octets(""))
	op.AppendChild(octets(text))
	c.send(q, op, controls...)
}

// entry sends one entry of a search.
func (c *fakeConn) entry(q request, dn string, attributes ...string) {
	op := ber.Encode(ber.ClassApplication, ber.TypeConstructed, ldap.ApplicationSearchResultEntry, nil, "")
	op.AppendChild(octets(dn))
	all := ber.NewSequence("")
	for _, a := range attributes {
		name, value, _ := strings.Cut(a, "=")
		one := ber.NewSequence("")
		one.AppendChild(octets(name))
		values := ber.Encode(ber.ClassUniversal, ber.TypeConstructed, ber.TagSet, nil, "")
		for v := range strings.SplitSeq(value, "|") {
			values.AppendChild(octets(v))
		}
		one.AppendChild(values)
		all.AppendChild(one)
	}
	op.AppendChild(all)
	c.send(q, op)
}

func (c *fakeConn) send(q request, op *ber.Packet, controls ...*ber.Packet) {
	message := ber.NewSequence("")
	message.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, q.id, ""))
	message.AppendChild(op)
	if len(controls) > 0 {
		all := ber.Encode(ber.ClassContext, ber.TypeConstructed, 0, nil, "")
		for _, one := range controls {
			all.AppendChild(one)
		}
		message.AppendChild(all)
	}
	c.Write(message.Bytes()) // fails if the client has disconnected
}

func octets(s string) *ber.Packet {
	return ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, s, "")
}

// people is the script of a working server. The password of every user is "secret", that of
// the service account "service".
func people(c *fakeConn, q request) {
	switch {
	case q.tag == ldap.ApplicationBindRequest && q.name == "" && q.password == "":
		c.done(q, ldap.LDAPResultInappropriateAuthentication, "anonymous bind disallowed")
	case q.tag == ldap.ApplicationBindRequest && q.name == "cn=service" && q.password == "service":
		c.done(q, 0, "")
	case q.tag == ldap.ApplicationBindRequest && q.password == "secret":
		c.done(q, 0, "")
	case q.tag == ldap.ApplicationBindRequest:
		c.done(q, ldap.LDAPResultInvalidCredentials, "")
	case q.tag == ldap.ApplicationSearchRequest:
		find(c, q)
	}
}

// find answers a search. It has two users: alice, and bob, whose account is disabled.
func find(c *fakeConn, q request) {
	switch q.filter {
	case "(&(objectClass=person)(uid=alice))", "(&(objectClass=person)(uid=ALICE))":
		c.entry(q, "uid=alice", "uid=alice", "mail=alice@example.org|al@example.org")
	case "(&(objectClass=person)(uid=bob))":
		c.entry(q, "uid=bob", "uid=bob")
	case "(&(objectClass=person)(uid=twice))":
		c.entry(q, "uid=one")
		c.entry(q, "uid=two")
		c.done(q, ldap.LDAPResultSizeLimitExceeded, "")
		return
	case "(objectClass=*)":
		c.entry(q, q.name, "uid="+strings.TrimPrefix(q.name, "uid="))
	case "(!(gone=TRUE))":
		if q.name != "uid=bob" {
			c.entry(q, q.name)
		}
	case "(gone=TRUE)":
		if q.name == "uid=bob" {
			c.entry(q, q.name)
		}
	}
	c.done(q, 0, "")
}

// open returns a store that is closed at the end of the test.
func open(t *testing.T, cfg Config) *Store {
	t.Helper()
	s, err := New(cfg, auth.NewLog(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// unknownPeer is a client that has not logged in before.
var unknownPeer = &auth.Peer{TLS: &tls.ConnectionState{}}

const shortTimeout = 200 * time.Millisecond

func TestMain(m *testing.M) { os.Exit(kit.Main(m)) }
