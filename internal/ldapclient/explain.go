package ldapclient

import (
	"errors"
	"fmt"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"postern/internal/neterr"
)

// A ConfigError is a mistake in the configuration of postern or of the directory. Other servers
// would give the same answer, so they are not asked.
type ConfigError struct {
	What string // the cause, with the value
	Step string // what to do, in the imperative, or empty
	Err  error  // or nil
}

func (e *ConfigError) Error() string {
	text := e.What
	if e.Err != nil {
		text += " (" + Clean(e.Err.Error()) + ")"
	}
	if e.Step != "" {
		text += "; " + e.Step
	}
	return text
}

func (e *ConfigError) Unwrap() error { return e.Err }

// newPeer returns the server of a URL in the words of the configuration.
func newPeer(u URL, caFile string) neterr.Server {
	p := neterr.Server{
		Name: "LDAP server", Address: u.Address, AddressKey: "server_host",
		Host: u.Host, CAFile: caFile, CAKey: "ca_file",
	}
	switch u.Scheme {
	case schemePlain:
		p.WithTLS = fmt.Sprintf("write %s://%s in server_host", schemeTLS, u.Address)
	case schemeTLS:
		p.WithoutTLS = fmt.Sprintf("write %s://%s in server_host, which begins TLS by StartTLS", schemePlain, u.Address)
		if strings.HasSuffix(u.Address, ":636") {
			p.WithoutTLS = fmt.Sprintf("enable ldaps at the server, or write %s://%s in server_host, which begins TLS by StartTLS", schemePlain, u.Host)
		}
	}
	return p
}

// explainStartTLS explains why TLS could not be requested.
func (d *dialer) explainStartTLS(err error) error {
	if foreign, ok := errors.AsType[*foreignError](err); ok {
		return d.peer.Foreign(foreign.first, err)
	}
	if _, ok := errors.AsType[*ldap.Error](err); !ok {
		if explained := d.peer.Explain(neterr.Reply, err); explained != err {
			return explained
		}
		return fmt.Errorf("StartTLS: %w", err)
	}
	step := "give the server a certificate and a key"
	if d.url.IsLocal() {
		step += ", or set start_tls = false, which is safe on loopback"
	}
	return &neterr.Error{Cause: fmt.Sprintf("the server refuses StartTLS (%s)", Clean(err.Error())), Step: step, Err: err}
}

// encrypt is the step for a server that demands TLS.
func (d *dialer) encrypt() string {
	if d.url.Scheme == schemePlain {
		return "set start_tls = true"
	}
	return fmt.Sprintf("write %s:// in server_host", schemeTLS)
}

// explainBind explains the answer to the bind of the service account.
func (d *dialer) explainBind(err error) error {
	e, ok := errors.AsType[*ldap.Error](err)
	if !ok || !answered(err) {
		return err
	}
	name, file := Clean(d.account.dn), d.account.file
	switch e.ResultCode {
	case ldap.LDAPResultInvalidCredentials:
		if reason := WindowsError(e.Err.Error()).Reason; reason != "" {
			return &ConfigError{fmt.Sprintf("the server refuses the login of bind_dn, \"%s\": %s", name, reason), WindowsError(e.Err.Error()).step(file), nil}
		}
		return &ConfigError{fmt.Sprintf("the server refuses bind_dn, \"%s\", with the password in bind_password_file", name),
			fmt.Sprintf("correct bind_dn, or write its password into %s", file), err}
	case ldap.LDAPResultNoSuchObject:
		return &ConfigError{fmt.Sprintf("the server has no entry for bind_dn, \"%s\"", name), "write the DN of an entry that exists", err}
	case ldap.LDAPResultInvalidDNSyntax:
		return &ConfigError{fmt.Sprintf("the server cannot read bind_dn, \"%s\", as a distinguished name", name),
			"write the DN of the account; only Active Directory accepts other names", err}
	case ldap.LDAPResultInappropriateAuthentication:
		return &ConfigError{fmt.Sprintf("the entry of bind_dn, \"%s\", has no password", name), "set one in the directory", err}
	case ldap.LDAPResultStrongAuthRequired, ldap.LDAPResultConfidentialityRequired:
		return &ConfigError{"the server accepts passwords only with TLS", d.encrypt(), err}
	case ldap.LDAPResultInsufficientAccessRights, ldap.LDAPResultUnwillingToPerform:
		return &ConfigError{fmt.Sprintf("the server does not allow a login of bind_dn, \"%s\"", name), "permit it in the directory, or name another account", err}
	}
	return err
}

// explainSearch adds the cause and the remedy to the error of a search.
func (c *Conn) explainSearch(q Query, err error) error {
	e, ok := errors.AsType[*ldap.Error](err)
	if !ok || !answered(err) {
		return err
	}
	base, account := Clean(q.Base), "the account that searches"
	anonymous := c.purpose == ForSearches && c.dialer.account.dn == ""
	if c.purpose == ForSearches && !anonymous {
		account = fmt.Sprintf("bind_dn, \"%s\",", Clean(c.dialer.account.dn))
	}
	if anonymous {
		account = "anonymous clients"
	}
	const setAccount = "set bind_dn and bind_password_file"
	switch e.ResultCode {
	case ldap.LDAPResultNoSuchObject:
		what := fmt.Sprintf("the server has no entry %q, or hides it from %s", base, strings.TrimSuffix(account, ","))
		if anonymous && e.MatchedDN == "" {
			return &ConfigError{what, setAccount, err}
		}
		if e.MatchedDN != "" {
			what += fmt.Sprintf("; the part of it that exists is %q", Clean(e.MatchedDN))
		}
		return &ConfigError{what, "correct search_base", err}
	case ldap.LDAPResultInvalidDNSyntax:
		return &ConfigError{fmt.Sprintf("the server cannot read %q as a distinguished name", base), "correct the attribute names in search_base", err}
	case ldap.LDAPResultReferral:
		return &ConfigError{fmt.Sprintf("the server does not hold %q and refers to another one, which postern does not follow", base),
			"correct search_base, or name that server in server_host", err}
	case ldap.LDAPResultSizeLimitExceeded:
		return &ConfigError{fmt.Sprintf("the server finds more entries below %q than it returns", base), "make query_filter narrower", err}
	case ldap.LDAPResultAdminLimitExceeded:
		return &ConfigError{fmt.Sprintf("the search below %q exceeds a limit of the server", base), "index the attributes of query_filter at the server", err}
	case ldap.LDAPResultConfidentialityRequired:
		return &ConfigError{"the server answers searches only with TLS", c.dialer.encrypt(), err}
	case ldap.LDAPResultInappropriateMatching, ldap.LDAPResultUndefinedAttributeType, ldap.LDAPResultProtocolError:
		return &ConfigError{"the server does not understand the search", "use attributes and matching rules that the server has in query_filter", err}
	}
	return c.explainRights(e, base, account, anonymous, setAccount)
}

// explainRights explains a search that the server does not allow.
func (c *Conn) explainRights(e *ldap.Error, base, account string, anonymous bool, setAccount string) error {
	switch e.ResultCode {
	case ldap.LDAPResultStrongAuthRequired, ldap.LDAPResultInappropriateAuthentication,
		ldap.LDAPResultOperationsError, ldap.LDAPResultInsufficientAccessRights, ldap.LDAPResultUnwillingToPerform:
		if anonymous {
			return &ConfigError{fmt.Sprintf("the server does not allow an anonymous search of %q", base), setAccount, e}
		}
	}
	switch e.ResultCode {
	case ldap.LDAPResultStrongAuthRequired:
		return &ConfigError{"the server answers searches only with TLS", c.dialer.encrypt(), e}
	case ldap.LDAPResultInsufficientAccessRights:
		return &ConfigError{fmt.Sprintf("%s has no right to search %q", account, base), "grant it in the directory, or name another account", e}
	}
	return e
}

// explainBase adds the bases that the server has to the error about search_base.
func (c *Conn) explainBase(base string, err error) error {
	explained, ok := errors.AsType[*ConfigError](err)
	e, result := errors.AsType[*ldap.Error](err)
	if !ok || !result || e.ResultCode != ldap.LDAPResultNoSuchObject && e.ResultCode != ldap.LDAPResultReferral {
		return err
	}
	root, rootErr := c.rootDSE()
	if rootErr != nil || len(root.contexts) == 0 {
		return err
	}
	for _, context := range root.contexts {
		if below(base, context) {
			return err // the matched DN says more
		}
	}
	return &ConfigError{
		What: fmt.Sprintf("the server has no entry %q; it holds %s", Clean(base), Clean(strings.Join(root.contexts, " and "))),
		Step: "correct search_base", Err: explained.Err,
	}
}

// below reports whether the entry of a DN is base or below it.
func below(dn, base string) bool {
	entry, err := ldap.ParseDN(dn)
	if err != nil {
		return false
	}
	ancestor, err := ldap.ParseDN(base)
	return err == nil && (ancestor.EqualFold(entry) || ancestor.AncestorOfFold(entry))
}

// A rootDSE is what a server says about itself (RFC 4512, section 5.1).
type rootDSE struct {
	contexts      []string // what the server holds; of Active Directory its domain only
	domain        string   // defaultNamingContext of Active Directory, or empty
	configuration string   // configurationNamingContext of Active Directory
}

func (c *Conn) rootDSE() (r rootDSE, err error) {
	found, err := c.Search(Query{Scope: ScopeBase, Filter: everyEntry, Limit: 2,
		Attributes: []string{"namingContexts", "defaultNamingContext", "configurationNamingContext"}})
	if err != nil || len(found) != 1 {
		return r, err
	}
	r.contexts = found[0].Values("namingContexts")
	r.domain = strings.Join(found[0].Values("defaultNamingContext"), "")
	r.configuration = strings.Join(found[0].Values("configurationNamingContext"), "")
	if r.domain != "" {
		r.contexts = []string{r.domain}
	}
	return r, nil
}
