// Package ldaptest has an LDAP server for tests, whose responses are a script.
package ldaptest

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"
)

// A Server answers requests by a script. It records the requests, each after the number of its
// connection.
type Server struct {
	listener net.Listener
	script   func(*Conn, Request) // answers one request

	mu    sync.Mutex
	conns []net.Conn
	log   []string
	wait  sync.WaitGroup
}

// A Conn is a connection of a client to a [Server].
type Conn struct {
	net.Conn
	Number int // from 1
}

// A Request is one parsed request.
type Request struct {
	ID       int64
	Tag      ber.Tag
	Name     string // of a bind, the base of a search, or the number of an extended request
	Password string
	Filter   string
}

// Start starts a server that is stopped at the end of the test.
func Start(t *testing.T, script func(*Conn, Request)) *Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{listener: l, script: script}
	s.wait.Go(s.accept)
	t.Cleanup(s.stop)
	return s
}

// URL returns the URL of the server.
func (s *Server) URL() string { return "ldap://" + s.listener.Addr().String() }

func (s *Server) stop() {
	s.listener.Close()
	s.HangUp()
	s.wait.Wait()
}

// HangUp closes all connections.
func (s *Server) HangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Close()
	}
}

func (s *Server) accept() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns = append(s.conns, c)
		number := len(s.conns)
		s.mu.Unlock()
		s.wait.Go(func() { s.serve(&Conn{c, number}) })
	}
}

func (s *Server) serve(c *Conn) {
	defer c.Close()
	for {
		packet, err := ber.ReadPacket(c)
		if err != nil {
			return
		}
		q := parseRequest(packet)
		s.record(c.Number, q)
		s.script(c, q)
	}
}

func parseRequest(packet *ber.Packet) Request {
	op := packet.Children[1]
	q := Request{ID: packet.Children[0].Value.(int64), Tag: op.Tag}
	switch op.Tag {
	case ldap.ApplicationBindRequest:
		q.Name = op.Children[1].Value.(string)
		q.Password = op.Children[2].Data.String()
	case ldap.ApplicationSearchRequest:
		q.Name = op.Children[0].Value.(string)
		q.Filter, _ = ldap.DecompileFilter(op.Children[6])
	case ldap.ApplicationExtendedRequest:
		q.Name = op.Children[0].Data.String()
	}
	return q
}

func (s *Server) record(number int, q Request) {
	what := map[ber.Tag]string{
		ldap.ApplicationBindRequest:     "bind " + q.Name,
		ldap.ApplicationSearchRequest:   "search " + q.Filter,
		ldap.ApplicationUnbindRequest:   "unbind",
		ldap.ApplicationExtendedRequest: "extended",
	}[q.Tag]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, fmt.Sprintf("%d: %s", number, strings.TrimSpace(what)))
}

// Unbinds returns the number of unbind requests so far.
func (s *Server) Unbinds() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, note := range s.log {
		if strings.HasSuffix(note, "unbind") {
			n++
		}
	}
	return n
}

// Requests returns the recorded requests without unbind, whose time is not determined.
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.log), func(n string) bool { return strings.HasSuffix(n, "unbind") })
}

// Connections returns the number of connections so far.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Done sends the result of q.
func (c *Conn) Done(q Request, code int64, text string, controls ...*ber.Packet) {
	c.Send(q, result(q, code, text), controls...)
}

// Value sends the successful result of an extended request, with its value.
func (c *Conn) Value(q Request, value string) {
	op := result(q, 0, "")
	op.AppendChild(ber.NewString(ber.ClassContext, ber.TypePrimitive, 11, value, ""))
	c.Send(q, op)
}

func result(q Request, code int64, text string) *ber.Packet {
	tag := map[ber.Tag]ber.Tag{
		ldap.ApplicationBindRequest:     ldap.ApplicationBindResponse,
		ldap.ApplicationSearchRequest:   ldap.ApplicationSearchResultDone,
		ldap.ApplicationExtendedRequest: ldap.ApplicationExtendedResponse,
	}[q.Tag]
	op := ber.Encode(ber.ClassApplication, ber.TypeConstructed, tag, nil, "")
	op.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagEnumerated, code, ""))
	op.AppendChild(Octets(""))
	op.AppendChild(Octets(text))
	return op
}

// Entry sends one entry of a search.
func (c *Conn) Entry(q Request, dn string, attributes ...string) {
	op := ber.Encode(ber.ClassApplication, ber.TypeConstructed, ldap.ApplicationSearchResultEntry, nil, "")
	op.AppendChild(Octets(dn))
	all := ber.NewSequence("")
	for _, a := range attributes {
		name, value, _ := strings.Cut(a, "=")
		one := ber.NewSequence("")
		one.AppendChild(Octets(name))
		values := ber.Encode(ber.ClassUniversal, ber.TypeConstructed, ber.TagSet, nil, "")
		for v := range strings.SplitSeq(value, "|") {
			values.AppendChild(Octets(v))
		}
		one.AppendChild(values)
		all.AppendChild(one)
	}
	op.AppendChild(all)
	c.Send(q, op)
}

// Send sends one message that belongs to q.
func (c *Conn) Send(q Request, op *ber.Packet, controls ...*ber.Packet) {
	message := ber.NewSequence("")
	message.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, q.ID, ""))
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

// Octets returns an octet string.
func Octets(s string) *ber.Packet {
	return ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, s, "")
}

// People is the script of a working server. The password of every user is "secret", that of
// the service account "service".
func People(c *Conn, q Request) {
	switch {
	case q.Tag == ldap.ApplicationBindRequest && q.Name == "" && q.Password == "":
		c.Done(q, ldap.LDAPResultInappropriateAuthentication, "anonymous bind disallowed")
	case q.Tag == ldap.ApplicationBindRequest && q.Name == "cn=service" && q.Password == "service":
		c.Done(q, 0, "")
	case q.Tag == ldap.ApplicationBindRequest && q.Password == "secret":
		c.Done(q, 0, "")
	case q.Tag == ldap.ApplicationBindRequest:
		c.Done(q, ldap.LDAPResultInvalidCredentials, "")
	case q.Tag == ldap.ApplicationSearchRequest:
		find(c, q)
	}
}

// find answers a search. It has two users: alice, and bob, whose account is disabled.
func find(c *Conn, q Request) {
	switch q.Filter {
	case "(&(objectClass=person)(uid=alice))", "(&(objectClass=person)(uid=ALICE))":
		c.Entry(q, "uid=alice", "uid=alice", "mail=alice@example.org|al@example.org")
	case "(&(objectClass=person)(uid=bob))":
		c.Entry(q, "uid=bob", "uid=bob")
	case "(&(objectClass=person)(uid=twice))":
		c.Entry(q, "uid=one")
		c.Entry(q, "uid=two")
		c.Done(q, ldap.LDAPResultSizeLimitExceeded, "")
		return
	case "(objectClass=*)":
		c.Entry(q, q.Name, "uid="+strings.TrimPrefix(q.Name, "uid="))
	case "(!(gone=TRUE))":
		if q.Name != "uid=bob" {
			c.Entry(q, q.Name)
		}
	case "(gone=TRUE)":
		if q.Name == "uid=bob" {
			c.Entry(q, q.Name)
		}
	}
	c.Done(q, 0, "")
}
