package policy

import (
	"context"
	"strings"

	"github.com/emersion/go-smtp"
)

// fullyQualified tells whether an address has a domain of two labels at least
// (RFC 6409, section 4.2). An address literal is as good.
func fullyQualified(address string) bool {
	_, domain := splitAddress(address)
	if isLiteral(domain) {
		return true
	}
	name, ok := asciiDomain(domain)
	return ok && strings.Contains(name, ".")
}

func needFQDN(address, class string) Verdict {
	return refuse(504, smtp.EnhancedCode{5, 5, 2}, rejected(address, class, "need fully-qualified address"))
}

// unknownDomain is how a refusal by the DNS is worded.
type unknownDomain struct {
	class  string
	code   smtp.EnhancedCode // goes with 450, Postfix's unknown_address_reject_code
	nullMX refusal
}

type refusal struct {
	code     int
	enhanced smtp.EnhancedCode
}

// mailable refuses an address to which no mail can go, unless its domain is
// local or an address literal. sent is the address in the reply.
func (s *site) mailable(ctx context.Context, address, sent string, u unknownDomain) Verdict {
	_, domain := splitAddress(address)
	if domain == "" || isLiteral(domain) || s.isLocal(address) {
		return Verdict{}
	}
	name, ok := asciiDomain(domain)
	if !ok {
		return u.notFound(sent)
	}
	state, err := s.dns.mailDomain(ctx, name)
	switch state {
	case domainExists:
		return Verdict{}
	case domainUnknown:
		return u.notFound(sent)
	case domainNullMX:
		return refuse(u.nullMX.code, u.nullMX.enhanced,
			rejected(sent, u.class, "Domain "+name+" does not accept mail (nullMX)"))
	}
	v := u.notFound(sent)
	v.Action, v.Cause = DeferIfPermit, err
	return v
}

func (u unknownDomain) notFound(address string) Verdict {
	return refuse(450, u.code, rejected(address, u.class, "Domain not found"))
}
