package dovecot

import (
	"encoding/base64"
	"net/netip"
	"strconv"

	"postern/server/auth"
)

// authLine begins an exchange. A nil response is none, an empty one is an empty
// one: the client's "=" (RFC 4954, section 4).
func authLine(id uint32, mech string, p *auth.Peer, response []byte) []byte {
	line := lineOf("AUTH", strconv.FormatUint(uint64(id), 10), mech)
	line.add("service", "smtp")
	line.flag("nologin") // before 2.0: there will be no master request
	line.flag("no-penalty")
	if p.TLS != nil {
		line.add("secured", "tls")
	}
	if p.Session != "" {
		line.add("session", p.Session)
	}
	line.endpoint("lip", "lport", p.Local)
	line.endpoint("rip", "rport", p.Remote)
	if response != nil {
		line.add("resp", encodeInitial(response)) // the last one, always
	}
	return line.end()
}

// encodeInitial writes an empty response as "=": until version 1.1 an empty
// parameter meant that there is none. All versions take "=" for empty.
func encodeInitial(response []byte) string {
	if len(response) == 0 {
		return "="
	}
	return base64.StdEncoding.EncodeToString(response)
}

// contLine goes on with an exchange.
func contLine(id uint32, response []byte) []byte {
	return lineOf("CONT", strconv.FormatUint(uint64(id), 10), base64.StdEncoding.EncodeToString(response)).end()
}

func cancelLine(id uint32) []byte {
	return lineOf("CANCEL", strconv.FormatUint(uint64(id), 10)).end()
}

// An outLine is a line in the making. Every field is escaped on its way in, so
// that none can end the field or the line.
type outLine []byte

func lineOf(verb string, fields ...string) *outLine {
	line := outLine(verb)
	for _, f := range fields {
		line.flag(f)
	}
	return &line
}

func (l *outLine) flag(name string) {
	*l = append(*l, '\t')
	*l = append(*l, escape(name)...)
}

func (l *outLine) add(name, value string) { l.flag(name + "=" + value) }

// endpoint adds an address, and its port under the second name.
func (l *outLine) endpoint(addr, port string, e netip.AddrPort) {
	if !e.IsValid() {
		return
	}
	// A zone means something on this machine only, and Dovecot takes none.
	l.add(addr, e.Addr().Unmap().WithZone("").String())
	l.add(port, strconv.Itoa(int(e.Port())))
}

func (l *outLine) end() []byte { return append(*l, '\n') }
