package ldap

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/go-ldap/ldap/v3"

	"postern/internal/ldapclient/ldaptest"
	"postern/server/auth"
)

func activeDirectory() *ldaptest.ActiveDirectory {
	d := &ldaptest.ActiveDirectory{Lockout: 3, Accounts: []ldaptest.Account{
		{Name: "postern", Password: "service"}, {Name: "Alice", Password: "secret"}, {Name: "bob", Password: "secret"},
	}}
	for _, code := range []string{"530", "531", "532", "533", "701", "773"} {
		d.Accounts = append(d.Accounts, ldaptest.Account{Name: "user" + code, Password: "secret", Refusal: code})
	}
	return d
}

// byAccount has user_dn as the name of an account.
func byAccount(t *testing.T, template, url string) Config {
	t.Helper()
	cfg := Defaults()
	set(t, &cfg.UserDN, template)
	cfg.ServerHost = urls(t, url)
	cfg.Validate(func(key, why string) { t.Errorf("%s: %s", key, why) })
	return cfg
}

// searchesAD searches with an account that has a name of Active Directory.
func searchesAD(t *testing.T, account, url string) Config {
	t.Helper()
	cfg := withService(t, url)
	set(t, &cfg.BindDN, account)
	set(t, &cfg.SearchBase, "dc=corp,dc=example,dc=com")
	set(t, &cfg.QueryFilter, "(&(objectCategory=person)(sAMAccountName={local}))")
	cfg.UserAttribute = "sAMAccountName"
	return cfg
}

// The user is the account of the directory, whatever the spelling of the login.
func TestActiveDirectoryNames(t *testing.T) {
	windows, samba := activeDirectory(), activeDirectory()
	samba.Samba = true
	url, sambaURL := ldaptest.Start(t, windows.Answer).URL(), ldaptest.Start(t, samba.Answer).URL()
	withAttribute := func(cfg Config, name string) Config { cfg.UserAttribute = name; return cfg }
	for _, tt := range []struct {
		cfg         Config
		login, want string
	}{
		{byAccount(t, "{local}@corp.example.com", url), "ALICE@example.org", `ok CORP\Alice`},
		{byAccount(t, `CORP\{user}`, url), "alice", `ok CORP\Alice`},
		{byAccount(t, "{local}@{domain}", url), "alice@CORP.example.com", `ok CORP\Alice`},
		{byAccount(t, "{local}@{domain}", url), "alice@evil.example", "no such user"},
		{byAccount(t, `CORP\{user}`, url), `EVIL\alice`, "no such user"},
		{byAccount(t, `CORP\{user}`, url), "alice@corp.example.com", "no such user"},
		{byAccount(t, "{user}@corp.example.com", url), "cn=alice", "no such user"},
		{byAccount(t, "{user}@corp.example.com", url), "alice/x", "no such user"},
		{withAttribute(byAccount(t, `CORP\{local}`, url), "userPrincipalName"), "alice@example.org", "ok Alice@corp.example.com"},
		{withAttribute(byAccount(t, `CORP\{local}`, sambaURL), "userPrincipalName"), "alice@example.org", "ok Alice@corp.example.com"},
		{byAccount(t, `CORP\{local}`, sambaURL), "alice", "temporary"}, // user_attribute is missing
		{searchesAD(t, "POSTERN@corp.example.com", url), "alice", "ok Alice"},
		{searchesAD(t, `corp\postern`, url), "ALICE@example.org", "ok Alice"},
		{searchesAD(t, "CN=postern,CN=Users,DC=corp,DC=example,DC=com", url), "nobody", "no such user"},
	} {
		if got := verify(t, open(t, tt.cfg), tt.login, "secret"); got != tt.want {
			t.Errorf("%s as %s: %s, want %s", tt.login, tt.cfg.template(), got, tt.want)
		}
	}
}

// The codes of Active Directory become reasons, in words.
func TestActiveDirectoryReasons(t *testing.T) {
	s := open(t, byAccount(t, `CORP\{user}`, ldaptest.Start(t, activeDirectory().Answer).URL()))
	for login, want := range map[string]string{
		"nobody":  "no such user: Active Directory: the account does not exist (data 525)",
		"bob":     "refused: Active Directory: the password is wrong (data 52e)",
		"user530": "account disabled: Active Directory: the account may not log in at this time (logonHours) (data 530)",
		"user531": "account disabled: Active Directory: the account may not log in from this machine (userWorkstations) (data 531)",
		"user532": "password expired: Active Directory: the password has expired (data 532)",
		"user533": "account disabled: Active Directory: the account is disabled (data 533)",
		"user701": "account disabled: Active Directory: the account has expired (data 701)",
		"user773": "password expired: Active Directory: the user must set a new password (data 773)",
	} {
		password := "secret"
		if login == "bob" {
			password = "wrong"
		}
		_, err := s.VerifyPassword(t.Context(), unknownPeer, login, password)
		f, ok := errors.AsType[*auth.Failure](err)
		if !ok || f.Kind.String()+": "+f.Reason != want {
			t.Errorf("%s: %v, want %s", login, err, want)
		}
	}
}

// Each login with a wrong password counts once, also if the client has composed its characters
// otherwise than PRECIS does, until the account is locked.
func TestActiveDirectoryLockout(t *testing.T) {
	d := activeDirectory()
	url := ldaptest.Start(t, d.Answer).URL()
	for i, cfg := range []Config{searchesAD(t, `CORP\postern`, url), byAccount(t, `CORP\{user}`, url), searchesAD(t, `CORP\postern`, url)} {
		v := auth.WithPRECIS(open(t, cfg))
		if _, err := v.VerifyPassword(t.Context(), unknownPeer, "bob", "wro\u0308ng"); err == nil {
			t.Error("accepted")
		}
		if n := d.BadPasswords("bob"); n != i+1 {
			t.Errorf("badPwdCount is %d after %d logins", n, i+1)
		}
	}
	_, err := open(t, searchesAD(t, `CORP\postern`, url)).VerifyPassword(t.Context(), unknownPeer, "bob", "secret")
	if f, ok := errors.AsType[*auth.Failure](err); !ok || f.Kind != auth.BadPassword || !strings.Contains(f.Reason, "the account is locked") {
		t.Errorf("locked: %v", err)
	}
	if n := d.BadPasswords("bob"); n != 3 {
		t.Errorf("badPwdCount is %d", n)
	}
}

// A bind that was sent and not answered is not repeated on another connection or at another server.
func TestUnansweredBindIsNotRepeated(t *testing.T) {
	var binds, others atomic.Int32
	lost := ldaptest.Start(t, func(c *ldaptest.Conn, q ldaptest.Request) {
		if q.Tag == ldap.ApplicationBindRequest && q.Password == "wrong" {
			binds.Add(1)
			c.Close()
			return
		}
		c.Done(q, 0, "")
	})
	other := ldaptest.Start(t, func(c *ldaptest.Conn, q ldaptest.Request) {
		others.Add(1)
		c.Done(q, 0, "")
	})
	s := open(t, direct(t, lost.URL(), other.URL()))
	if got := verify(t, s, "alice", "secret"); got != "ok alice" { // leaves a connection in the pool
		t.Fatal(got)
	}
	if got := verify(t, s, "bob", "wrong"); got != "temporary" {
		t.Error(got)
	}
	lost.HangUp()
	if binds.Load() != 1 || others.Load() != 0 {
		t.Errorf("%d binds at the first server and %d requests at the second one", binds.Load(), others.Load())
	}
	if got := verify(t, s, "alice", "secret"); got != "ok alice" { // by the second server
		t.Error(got)
	}
}
