package ldaptest

import (
	"fmt"
	"strings"
	"sync"

	"github.com/go-ldap/ldap/v3"
)

// whoAmI is the number of "Who am I?" (RFC 4532).
const whoAmI = "1.3.6.1.4.1.4203.1.11.3"

// An Account is a user of an [ActiveDirectory].
type Account struct {
	Name     string // sAMAccountName, as the directory spells it
	Password string
	Refusal  string // the code of the answer to the right password, such as "533"; empty to accept it
}

// An ActiveDirectory is the script of a domain controller of CORP, corp.example.com, with the
// texts of Windows Server 2016. It counts wrong passwords and locks an account after Lockout of
// them.
type ActiveDirectory struct {
	Accounts []Account
	Lockout  int

	// Samba answers as Samba 4.17 does, which does not know "Who am I?".
	Samba bool

	mu    sync.Mutex
	bad   map[string]int // badPwdCount, by name
	bound map[int]string // names, by connection
}

// BadPasswords returns badPwdCount of an account.
func (d *ActiveDirectory) BadPasswords(name string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.bad[name]
}

// Answer is the script of a [Server].
func (d *ActiveDirectory) Answer(c *Conn, q Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.bad == nil {
		d.bad, d.bound = make(map[string]int), make(map[int]string)
	}
	switch {
	case q.Tag == ldap.ApplicationBindRequest && q.Name == "":
		delete(d.bound, c.Number)
		c.Done(q, 0, "")
	case q.Tag == ldap.ApplicationBindRequest:
		d.bind(c, q)
	case q.Tag == ldap.ApplicationExtendedRequest && q.Name == whoAmI && !d.Samba:
		c.Value(q, `u:CORP\`+d.bound[c.Number])
	case q.Tag == ldap.ApplicationExtendedRequest:
		c.Done(q, ldap.LDAPResultProtocolError, "0000203D: LdapErr: DSID-0C090C31, comment: Unknown extended request OID, data 0, v3839\x00")
	case q.Tag == ldap.ApplicationSearchRequest:
		d.search(c, q)
	}
}

func (d *ActiveDirectory) bind(c *Conn, q Request) {
	delete(d.bound, c.Number)
	refuse := func(code string) {
		c.Done(q, ldap.LDAPResultInvalidCredentials,
			"80090308: LdapErr: DSID-0C090439, comment: AcceptSecurityContext error, data "+code+", v3839\x00")
	}
	a := d.find(q.Name)
	switch {
	case a == nil:
		refuse("525")
	case d.Lockout > 0 && d.bad[a.Name] >= d.Lockout:
		refuse("775")
	case q.Password != a.Password:
		d.bad[a.Name]++
		refuse("52e")
	case a.Refusal != "":
		refuse(a.Refusal)
	default:
		d.bad[a.Name] = 0
		d.bound[c.Number] = a.Name
		c.Done(q, 0, "")
	}
}

// find finds the account of a name, in any case: a DN, a user principal name, DOMAIN\name.
func (d *ActiveDirectory) find(name string) *Account {
	for i, a := range d.Accounts {
		for _, form := range []string{dn(a.Name), a.Name + "@corp.example.com", `CORP\` + a.Name} {
			if strings.EqualFold(name, form) {
				return &d.Accounts[i]
			}
		}
	}
	return nil
}

const domain = "DC=corp,DC=example,DC=com"

func dn(name string) string { return "CN=" + name + ",CN=Users," + domain }

// search answers the searches for an account, its domain and its attributes.
func (d *ActiveDirectory) search(c *Conn, q Request) {
	who := d.bound[c.Number]
	if q.Name == "" { // the rootDSE
		attributes := []string{"defaultNamingContext=" + domain, "namingContexts=" + domain + "|CN=Configuration," + domain, "configurationNamingContext=CN=Configuration," + domain}
		if who != "" {
			attributes = append(attributes, "tokenGroups=S-1-5-21-1-2-3-1102|S-1-5-21-1-2-3-513|S-1-1-0")
		}
		c.Entry(q, "", attributes...)
		c.Done(q, 0, "")
		return
	}
	if who == "" {
		c.Done(q, ldap.LDAPResultOperationsError, "000004DC: LdapErr: DSID-0C090A5C, comment: In order to perform this operation a successful bind must be completed on the connection., data 0, v3839\x00")
		return
	}
	lower := strings.ToLower(q.Name)
	switch {
	case strings.HasPrefix(lower, "cn=partitions,") && strings.Contains(q.Filter, "(nETBIOSName=CORP)"):
		c.Entry(q, "CN=CORP,CN=Partitions,CN=Configuration,"+domain, "nCName="+domain)
	case strings.HasPrefix(lower, "<sid="):
		c.Entry(q, dn(who))
	case !strings.HasSuffix(lower, strings.ToLower(domain)):
		c.Done(q, ldap.LDAPResultReferral, fmt.Sprintf("0000202B: RefErr: DSID-0310082F, data 0, 1 access points\n\tref 1: '%s'\n\x00", "other.example.com"))
		return
	}
	for _, a := range d.Accounts {
		if strings.EqualFold(q.Name, dn(a.Name)) || strings.Contains(strings.ToLower(q.Filter), "(samaccountname="+strings.ToLower(a.Name)+")") {
			c.Entry(q, dn(a.Name), "sAMAccountName="+a.Name, "userPrincipalName="+a.Name+"@corp.example.com")
		}
	}
	c.Done(q, 0, "")
}
