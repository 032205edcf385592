package neterr

import (
	"bytes"
	"strings"

	"postern/internal/text"
)

// maxText bounds a text of the other side, in bytes.
const maxText = 100

// clean makes a text of the other side safe for the log.
func clean(s string) string { return text.Shorten(text.Printable(s, -1), maxText) }

// greetings are the first bytes of protocols in which the server speaks first, or answers
// what it does not understand.
var greetings = []struct{ prefix, protocol string }{
	{"220", "SMTP"},
	{"554", "SMTP"},
	{"421", "SMTP"},
	{"* OK", "IMAP"},
	{"* BYE", "IMAP"},
	{"+OK", "POP3"},
	{"SSH-", "SSH"},
	{"HTTP/", "HTTP"},
	{"<htm", "HTTP"},
	{"<!DO", "HTTP"},
	{"VERSION\t", "the authentication protocol of Dovecot"},
	{"VERS", "the authentication protocol of Dovecot"},
	{"\x15\x03", protocolTLS}, // a TLS alert
	{"\x16\x03", protocolTLS}, // a TLS handshake
	{"\x30\x84", protocolLDAP},
	{"\x30\x0c", protocolLDAP}, // the response to an extended request, or a notice of disconnection
}

const (
	protocolTLS   = "TLS"
	protocolLDAP  = "LDAP"
	protocolMySQL = "the protocol of MySQL"
)

// Protocol returns the name of the protocol in which a server has sent its first bytes, of
// which at least four are needed, or the empty text. The name fits after "speaks".
func Protocol(first []byte) string {
	for _, g := range greetings {
		if bytes.HasPrefix(first, []byte(g.prefix)) {
			return g.protocol
		}
	}
	// A packet of MySQL has a length of three bytes and a number, which is 0, before its
	// content. A greeting begins with 10, an error with 255.
	if len(first) >= 5 && first[1] == 0 && first[2] == 0 && first[3] == 0 && (first[4] == 10 || first[4] == 0xff) {
		return protocolMySQL
	}
	if strings.HasPrefix(string(first), "E\x00\x00") { // an ErrorResponse
		return "the protocol of PostgreSQL"
	}
	return ""
}
