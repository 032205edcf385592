package test

import (
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// startDNS serves TXT records on port 53 of a loopback address of its own,
// which it returns. Names end in a dot.
func startDNS(t *testing.T, txt map[string]string) string {
	t.Helper()
	var conn net.PacketConn
	var err error
	for n := 1; n < 250 && conn == nil; n++ {
		conn, err = net.ListenPacket("udp", fmt.Sprintf("127.53.0.%d:53", n))
	}
	if conn == nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		serveDNS(conn, txt)
	}()
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
	return conn.LocalAddr().(*net.UDPAddr).IP.String()
}

func serveDNS(conn net.PacketConn, txt map[string]string) {
	buf := make([]byte, 4096)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		if answer, err := answerDNS(buf[:n], txt); err == nil {
			_, _ = conn.WriteTo(answer, from)
		}
	}
}

func answerDNS(query []byte, txt map[string]string) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil, err
	}
	q := m.Questions[0]
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	text, found := txt[strings.ToLower(q.Name.String())]
	switch {
	case !found:
		m.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeTXT:
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60},
			Body:   &dnsmessage.TXTResource{TXT: pieces(text)},
		}}
	}
	return m.Pack()
}

// pieces cuts a TXT record into strings of at most 255 bytes.
func pieces(text string) []string {
	var all []string
	for len(text) > 255 {
		all = append(all, text[:255])
		text = text[255:]
	}
	return append(all, text)
}

// withDNS runs a command that asks the server and nobody else: in a mount
// namespace with a resolv.conf of its own.
func withDNS(t *testing.T, server, name string, args ...string) *exec.Cmd {
	t.Helper()
	file := filepath.Join(t.TempDir(), "resolv.conf")
	write(t, file, "nameserver "+server+"\n")
	script := `mount --bind "$0" /etc/resolv.conf && exec "$@"`
	return command(t, "unshare", append([]string{"--mount", "sh", "-c", script, file, name}, args...)...)
}
