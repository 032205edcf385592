// Package authsocket recognises the daemon that listens on a Unix socket, for the errors of
// stores whose path names the socket of another daemon.
//
// Most daemons send a greeting. saslauthd does not; it answers an empty request of its
// protocol, which has no login, with NO before it uses PAM or any other source of users.
// For a daemon that sends nothing, [Probe] returns the name of the process that the kernel
// reports (unix(7), SO_PEERCRED).
package authsocket

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A Kind is a protocol of a daemon.
type Kind int

const (
	Unknown       Kind = iota
	Saslauthd          // saslauthd(8) of Cyrus SASL
	DovecotAuth        // Dovecot's auth service for clients
	DovecotMaster      // Dovecot's auth service for its own processes: userdb, master
	DovecotOther       // another service of Dovecot
	Postfix            // an internal service of Postfix
	Mail               // SMTP, LMTP, POP3 or IMAP
)

// A Peer is the daemon that listens on a socket.
type Peer struct {
	Kind    Kind
	Service string // the service's own name for its protocol, if it sends one
	Process string // such as "anvil (process 12)"; empty if it is not known
	Silent  bool   // nothing was received before the deadline
}

// String describes the peer for an administrator.
func (p Peer) String() string {
	switch p.Kind {
	case Saslauthd:
		return "saslauthd"
	case DovecotAuth:
		return "Dovecot's auth service"
	case DovecotMaster:
		return "Dovecot's auth service for its own processes (auth-master, auth-userdb)"
	case DovecotOther:
		return "Dovecot's service " + p.Service
	case Postfix:
		return "Postfix's service with the " + p.Service
	case Mail:
		return "a server for " + p.Service
	}
	if p.Process == "" {
		return "an unknown daemon"
	}
	return "the daemon " + p.Process
}

// maxGreeting is how much of a greeting is read, in bytes. The mechanisms of Dovecot begin
// in its second line.
const maxGreeting = 1024

// Recognize returns the peer that began with text. It returns false while more of the
// greeting is needed, and for other daemons.
func Recognize(text []byte) (Peer, bool) {
	lines := strings.Split(string(text[:min(len(text), maxGreeting)]), "\n")
	first := strings.Split(strings.TrimRight(lines[0], "\r"), "\t")
	whole := len(lines) > 1
	switch {
	case first[0] == "VERSION" && len(first) > 1 && whole && strings.Trim(first[1], "0123456789") != "":
		return Peer{Kind: DovecotOther, Service: clean(first[1])}, true
	case first[0] == "VERSION" && len(lines) > 2 && strings.HasPrefix(lines[1], "MECH\t"):
		return Peer{Kind: DovecotAuth}, true
	case first[0] == "VERSION" && len(lines) > 2:
		return Peer{Kind: DovecotMaster}, true
	case bytes.HasPrefix(text, []byte("protocol\x00")), bytes.HasPrefix(text, []byte("protocol=")):
		name, _, ended := strings.Cut(string(text[len("protocol="):]), "\x00")
		name, _, line := strings.Cut(name, "\n")
		return Peer{Kind: Postfix, Service: clean(name)}, ended || line
	case strings.HasPrefix(first[0], "220 ") || strings.HasPrefix(first[0], "220-"):
		return Peer{Kind: Mail, Service: "SMTP or LMTP"}, whole
	case strings.HasPrefix(first[0], "* "):
		return Peer{Kind: Mail, Service: "IMAP"}, whole
	case strings.HasPrefix(first[0], "+OK"):
		return Peer{Kind: Mail, Service: "POP3"}, whole
	}
	if n := len(text); n >= 4 && int(binary.BigEndian.Uint16(text)) <= maxGreeting && slices.Contains([]string{"OK", "NO"}, string(text[2:4])) {
		return Peer{Kind: Saslauthd}, true
	}
	return Peer{}, false
}

// clean makes a word of a peer safe and short for an error.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return -1
		}
		return r
	}, s[:min(len(s), 40)])
}

// probeTime bounds the wait for a daemon on the same machine.
const probeTime = 3 * time.Second

// Probe connects to an address of a network, "unix" or "tcp", sends an empty request of saslauthd's protocol, and
// returns the daemon that answers. It waits 3 seconds at most, and not after ctx ends. It
// returns an error only if it cannot connect.
func Probe(ctx context.Context, network, address string) (Peer, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return Peer{}, err
	}
	defer conn.Close()
	return Ask(ctx, conn), nil
}

// Ask is Probe on an open connection, which the caller closes.
func Ask(ctx context.Context, conn net.Conn) Peer {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_, _ = conn.Write(make([]byte, 8)) // four strings of length 0; a daemon may have closed the connection after its greeting
	var text []byte
	buffer := make([]byte, maxGreeting)
	for len(text) < maxGreeting {
		n, err := conn.Read(buffer)
		text = append(text, buffer[:n]...)
		if p, ok := Recognize(text); ok {
			return p
		}
		if err != nil {
			break
		}
	}
	return Peer{Process: listener(conn), Silent: len(text) == 0 && ctx.Err() != nil}
}

// socketNames are names of sockets to which a daemon's documentation or its packages give a
// fixed name, and the daemon.
var socketNames = map[string]string{
	"anvil": "Dovecot", "anvil-auth-penalty": "Dovecot", "config": "Dovecot", "dict": "Dovecot", "dict-async": "Dovecot",
	"doveadm-server": "Dovecot", "ipc": "Dovecot", "old-stats": "Dovecot", "replicator": "Dovecot", "lmtp": "Dovecot",
	"director-admin": "Dovecot", "auth-master": "Dovecot", "auth-userdb": "Dovecot", "auth-worker": "Dovecot", "auth-client": "Dovecot",
	"stats-reader": "Dovecot", "stats-writer": "Dovecot", "log-errors": "Dovecot", "master": "Dovecot", "auth-login": "Dovecot",
}

// Owner returns the daemon that makes sockets with the name of path, or "".
func Owner(path string) string { return socketNames[filepath.Base(path)] }

// A NotSocketError is the reason why nothing can listen at a path.
type NotSocketError struct {
	Path string
	Mode fs.FileMode
}

func (e *NotSocketError) Error() string {
	what := "a file"
	if e.Mode.IsDir() {
		what = "a folder"
	}
	return fmt.Sprintf("%s is %s, not a socket", e.Path, what)
}

// CheckType returns a [*NotSocketError] if path is something else than a socket. The kernel
// reports "connection refused" for that. Other errors are left to the connection.
func CheckType(path string) error {
	info, err := os.Stat(path)
	if err != nil || info.Mode()&fs.ModeSocket != 0 {
		return nil
	}
	return &NotSocketError{path, info.Mode()}
}
