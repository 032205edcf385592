package smtpd

import (
	"bytes"

	"github.com/emersion/go-smtp"
)

var replyForeign = NewReply(421, smtp.EnhancedCode{4, 7, 0}, "Error: this port is for mail submission (SMTP) only")

// A ForeignError is a client that speaks another protocol than SMTP. A browser can
// be made to send mail if a server takes its request for commands (cross-protocol
// attacks: ALPACA; Postfix's smtpd_forbidden_commands).
type ForeignError struct{ Protocol string }

func (e *ForeignError) Error() string { return "smtpd: client speaks " + e.Protocol + ", not SMTP" }

// closeForeign closes the connection of a client that speaks another protocol.
func (c *Conn) closeForeign(protocol string) error {
	c.CloseAfterReply(replyForeign)
	return &ForeignError{Protocol: protocol}
}

// startsTLS reports whether p begins a TLS handshake record (RFC 8446, section 5.1).
func startsTLS(p []byte) bool { return len(p) > 0 && p[0] == 0x16 }

// foreignProtocol names the protocol of a line that is certainly no SMTP command,
// or returns an empty string.
func foreignProtocol(line []byte) string {
	switch {
	case startsTLS(line):
		return "TLS"
	case isProxyHeader(line):
		return protocolPROXY
	case bytes.HasPrefix(line, []byte("SSH-")):
		return "SSH"
	case isRequestLine(line):
		return "HTTP"
	case isHeaderLine(line):
		return "header fields"
	}
	return ""
}

// httpMethods are those of RFC 9110, PATCH (RFC 5789), and PRI, with which HTTP/2
// begins (RFC 9113).
var httpMethods = []string{"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "PRI"}

func isRequestLine(line []byte) bool {
	word, _, found := bytes.Cut(line, []byte(" "))
	if !found {
		return false
	}
	for _, method := range httpMethods {
		if bytes.EqualFold(word, []byte(method)) {
			return true
		}
	}
	return false
}

// isHeaderLine reports whether line is like a header field: a name, blanks, and a
// colon. No command has a colon there.
func isHeaderLine(line []byte) bool {
	end := bytes.IndexFunc(line, func(r rune) bool { return r <= ' ' || r > '~' || r == ':' })
	if end < 1 {
		return false
	}
	rest := bytes.TrimLeft(line[end:], blanks)
	return len(rest) > 0 && rest[0] == ':'
}

// protocolPROXY is the protocol of a PROXY header, which the caller of Serve has read if
// the client is a proxy that it trusts.
const protocolPROXY = "PROXY"

// proxySignature begins a PROXY header of version 2 (the PROXY protocol, section 2.2).
const proxySignature = "\r\n\r\n\x00\r\nQUIT\n"

// proxyLines are the lines of proxySignature that no client sends at the beginning of a
// connection; "QUIT" is the fourth.
var proxyLines = [...]string{"\r\n", "\r\n", "\x00\r\n"}

// isProxyHeader reports whether line, or the first five octets on a connection with TLS, is
// a PROXY header of version 1.
func isProxyHeader(line []byte) bool {
	return bytes.HasPrefix(line, []byte("PROXY ")) || string(line) == "PROXY"
}

// beginsProxyV2 reports whether the first lines of the connection, of which line is the
// next, are the signature of version 2. It recognizes a signature that has come as a whole by
// its first line, so that no line of it is refused as a command.
func (c *Conn) beginsProxyV2(line []byte) bool {
	if c.proxyLines == len(proxyLines) || string(line) != proxyLines[c.proxyLines] {
		c.proxyLines = len(proxyLines)
		return false
	}
	c.proxyLines++
	return c.proxyLines == len(proxyLines) || c.proxyLines == 1 && bytes.HasPrefix(c.in.unread(), []byte(proxySignature[len("\r\n"):]))
}
