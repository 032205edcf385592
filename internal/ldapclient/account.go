package ldapclient

import (
	"encoding/binary"
	"fmt"
	"regexp"
	"strings"

	"github.com/go-ldap/ldap/v3"
)

// An Account is the name of an account in a bind. The zero value is none.
//
//	cn=postern,dc=example,dc=org     a distinguished name
//	postern@corp.example.com         Active Directory: the user principal name
//	CORP\postern                     Active Directory: domain and sAMAccountName
//
// Active Directory accepts more forms ([MS-ADTS], section 5.1.1.1.1); these two are enough, and
// no login can be mistaken for another form.
type Account struct{ text string }

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *Account) UnmarshalText(text []byte) error {
	s := string(text)
	if _, err := ldap.ParseDN(s); err != nil && !isAccount(s) {
		return fmt.Errorf("%q is not the name of an account; write a distinguished name as in cn=postern,dc=example,dc=org, "+
			`or for Active Directory postern@corp.example.com or 'CORP\postern' (in single quotes)`, s)
	}
	*a = Account{s}
	return nil
}

func (a Account) String() string { return a.text }

// accountName matches the two names of Active Directory. The characters that sAMAccountName may
// not have, and the comma, are not part of a name.
var accountName = regexp.MustCompile(`^(?:[^\x00-\x1f\x7f"/\\\[\]:;|=,+*?<>@]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|[A-Za-z0-9][A-Za-z0-9._-]{0,62}\\[^\x00-\x1f\x7f"/\\\[\]:;|=,+*?<>@]{1,64})$`)

func isAccount(s string) bool { return accountName.MatchString(s) }

// An Identity is what the server says about the account of a connection. One of the fields is
// set.
type Identity struct {
	Name string // DOMAIN\name of Active Directory
	DN   string
}

// WhoAmI asks the server as which account the connection is bound (RFC 4532). The name of a bind
// does not show that: Active Directory has several names of each account, in any case. Samba does
// not answer the question, but shows the security identifiers of the connection.
func (c *Conn) WhoAmI() (Identity, error) {
	result, err := c.ldap.WhoAmI(nil)
	if ldap.IsErrorWithCode(err, ldap.LDAPResultProtocolError) {
		return c.bySID()
	}
	if err != nil {
		return Identity{}, err
	}
	if dn, ok := strings.CutPrefix(result.AuthzID, "dn:"); ok && dn != "" {
		return Identity{DN: dn}, nil
	}
	if name, ok := strings.CutPrefix(result.AuthzID, "u:"); ok && isAccount(name) && strings.Contains(name, `\`) {
		return Identity{Name: name}, nil
	}
	return Identity{}, &ConfigError{What: fmt.Sprintf("the server answers %q to \"Who am I?\"", Clean(result.AuthzID)), Step: searchInstead}
}

// searchInstead is the step for a server that does not show who is logged in.
const searchInstead = "remove user_dn, and let query_filter search for the entry"

// bySID reads the account of the connection from the rootDSE ([MS-ADTS], section 3.1.1.3.2.23,
// tokenGroups). One of the identifiers is that of a user, all others are those of groups; Samba
// sends it first.
func (c *Conn) bySID() (Identity, error) {
	root, err := c.Search(Query{Scope: ScopeBase, Filter: everyEntry, Attributes: []string{"tokenGroups"}, Limit: 2})
	if err != nil {
		return Identity{}, err
	}
	if len(root) != 1 || len(root[0].Values("tokenGroups")) == 0 {
		return Identity{}, &ConfigError{What: `the server neither answers "Who am I?" nor has tokenGroups`, Step: searchInstead}
	}
	sid, ok := sidText(root[0].Values("tokenGroups")[0])
	if !ok {
		return Identity{}, &ConfigError{What: "the server sends a malformed security identifier", Step: searchInstead}
	}
	e, err := c.only(Query{Base: "<SID=" + sid + ">", Scope: ScopeBase, Filter: "(&(objectClass=user)(objectSid=*))"}, "account "+sid)
	return Identity{DN: e.DN}, err
}

var sidForm = regexp.MustCompile(`^S-1(-[0-9]{1,20}){2,16}$`)

// sidText returns a security identifier as text. The server sends it as text or in binary form
// ([MS-DTYP], section 2.4.2.2).
func sidText(value string) (string, bool) {
	if sidForm.MatchString(value) {
		return value, true
	}
	b := []byte(value)
	const header = 8 // revision, number of parts, 6 bytes of the authority
	if len(b) < header || b[0] != 1 || len(b) != header+4*int(b[1]) {
		return "", false
	}
	authority := uint64(0)
	for _, digit := range b[2:header] {
		authority = authority<<8 | uint64(digit)
	}
	text := fmt.Sprintf("S-1-%d", authority)
	for part := b[header:]; len(part) > 0; part = part[4:] {
		text += fmt.Sprintf("-%d", binary.LittleEndian.Uint32(part))
	}
	return text, sidForm.MatchString(text)
}

// FindDN returns the DN of an account. In Active Directory the domain in the name leads to its
// base, so that an account of the same name in another domain of the forest is never taken.
func (c *Conn) FindDN(id Identity) (string, error) {
	if id.DN != "" {
		return id.DN, nil
	}
	domain, name, _ := strings.Cut(id.Name, `\`)
	root, err := c.rootDSE()
	if err != nil {
		return "", err
	}
	if root.configuration == "" {
		return "", &ConfigError{What: "the server has no configurationNamingContext, as Active Directory has", Step: searchInstead}
	}
	base, err := c.only(Query{Base: "CN=Partitions," + root.configuration, Scope: ScopeOne, Attributes: []string{"nCName"},
		Filter: fmt.Sprintf("(&(objectClass=crossRef)(nETBIOSName=%s))", ldap.EscapeFilter(domain))}, "domain "+domain)
	if err != nil {
		return "", err
	}
	found, err := c.only(Query{Base: strings.Join(base.Values("nCName"), ""), Scope: ScopeSub,
		Filter: fmt.Sprintf("(&(objectClass=user)(sAMAccountName=%s))", ldap.EscapeFilter(name))}, "account "+id.Name)
	return found.DN, err
}

// only returns the entry of a search that must find exactly one.
func (c *Conn) only(q Query, what string) (Entry, error) {
	q.Limit = 2
	found, err := c.Search(q)
	if err != nil {
		return Entry{}, err
	}
	if len(found) != 1 {
		return Entry{}, &ConfigError{What: fmt.Sprintf("the server shows %d entries of the %s to this account", len(found), Clean(what)),
			Step: "name a server of that domain in server_host"}
	}
	return found[0], nil
}
