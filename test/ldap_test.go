package test

import (
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	goldap "github.com/go-ldap/ldap/v3"

	"postern/internal/ldapclient"
	"postern/server/auth"
	"postern/server/auth/ldap"
	"postern/test/kit"
)

const slapdConf = `
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload ppolicy
pidfile %[1]s/pid
TLSCACertificateFile %[1]s/ca.pem
TLSCertificateFile %[1]s/cert.pem
TLSCertificateKeyFile %[1]s/key.pem
disallow bind_anon
database mdb
suffix "dc=example,dc=org"
rootdn "cn=root,dc=example,dc=org"
rootpw root
directory %[1]s/data
index uid,mail eq
overlay ppolicy
ppolicy_use_lockout
access to attrs=userPassword by anonymous auth by * none
access to attrs=description by * none
access to dn.subtree="ou=people,dc=example,dc=org" by dn.exact="cn=postern,dc=example,dc=org" read by self read by * none
access to * by dn.exact="cn=postern,dc=example,dc=org" read by * none
`

// employeeType is "departed" for users that a disabled_filter may match.
const slapdData = `
dn: dc=example,dc=org
objectClass: domain
dc: example

dn: cn=postern,dc=example,dc=org
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: postern
userPassword: service

dn: cn=strict,dc=example,dc=org
objectClass: organizationalRole
objectClass: pwdPolicy
cn: strict
pwdAttribute: userPassword
pwdLockout: TRUE
pwdMaxFailure: 3
pwdMustChange: TRUE
pwdMaxAge: 1000

dn: ou=people,dc=example,dc=org
objectClass: organizationalUnit
ou: people
`

const slapdPerson = `
dn: uid=%[1]s,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: %[1]s
cn: %[1]s
sn: %[1]s
mail: %[1]s@example.org
userPassword: secret
%[2]s
`

const strictPolicy = "pwdPolicySubentry: cn=strict,dc=example,dc=org\n"

// A slapd is a private OpenLDAP on a port and a socket.
type slapd struct {
	*daemon
	dir, port, url, socket string
	tls                    string // HOST:PORT with TLS from the first byte; nothing listens there without a certificate
}

func startSlapd(t *testing.T) *slapd {
	t.Helper()
	return startSlapdWith(t, fmt.Sprintf, func(dir string) {
		kit.NewCA(t, dir).Issue(t, 1, filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	})
}

// startSlapdWith starts an OpenLDAP. format makes the configuration of slapdConf and the folder,
// and issue writes ca.pem, cert.pem and key.pem; nil means no TLS.
func startSlapdWith(t *testing.T, format func(string, ...any) string, issue func(dir string)) *slapd {
	t.Helper()
	peer(t, "slapd", "slapadd")
	dir := kit.OpenDir(t)
	port := kit.Port(t)
	s := &slapd{dir: dir, port: fmt.Sprint(port), url: "ldap://" + loopback(port), socket: filepath.Join(dir, "ldapi"), tls: kit.Addr(t)}
	listens := s.url + " ldapi://" + url.QueryEscape(s.socket)
	if issue != nil {
		issue(dir)
		listens += " ldaps://" + s.tls
	}
	conf := filepath.Join(dir, "slapd.conf")
	write(t, conf, format(slapdConf, dir))
	write(t, filepath.Join(dir, "data.ldif"), slapdData+people())
	kit.Must(t, os.Mkdir(filepath.Join(dir, "data"), 0o700))
	if out, err := exec.Command("slapadd", "-f", conf, "-l", filepath.Join(dir, "data.ldif")).CombinedOutput(); err != nil {
		t.Fatalf("slapadd: %v\n%s", err, out)
	}
	s.daemon = startDaemon(t, dir, daemon{
		args:  []string{"slapd", "-d", "none", "-f", conf, "-h", listens},
		stops: "TERM",
		ready: func() bool { return listening(loopback(port)) },
	})
	return s
}

func people() string {
	var all strings.Builder
	for name, more := range map[string]string{
		"alice":   "description: present",
		"carol":   "",
		"bob":     "employeeType: departed",
		"locked":  strictPolicy,
		"reset":   strictPolicy + "pwdReset: TRUE",
		"expired": strictPolicy + "pwdChangedTime: 20200101000000Z",
		"o'neil":  "",
	} {
		fmt.Fprintf(&all, slapdPerson, name, more)
	}
	return all.String()
}

// setPassword changes a password as the administrator.
func (s *slapd) setPassword(t *testing.T, user, password string) {
	t.Helper()
	c, err := goldap.DialURL(s.url)
	kit.Must(t, err)
	defer c.Close()
	kit.Must(t, c.Bind("cn=root,dc=example,dc=org", "root"))
	change := goldap.NewModifyRequest("uid="+user+",ou=people,dc=example,dc=org", nil)
	change.Replace("userPassword", []string{password})
	kit.Must(t, c.Modify(change))
}

// set sets a value as the configuration does.
func set(t *testing.T, v interface{ UnmarshalText([]byte) error }, text string) {
	t.Helper()
	kit.Must(t, v.UnmarshalText([]byte(text)))
}

// bySearch returns the configuration of a search with a service account, over StartTLS.
func (s *slapd) bySearch(t *testing.T) ldap.Config {
	cfg := ldap.Defaults()
	cfg.ServerHost = make([]ldapclient.URL, 1)
	set(t, &cfg.ServerHost[0], s.url)
	cfg.StartTLS, cfg.CAFile = true, filepath.Join(s.dir, "ca.pem")
	set(t, &cfg.SearchBase, "dc=example,dc=org")
	set(t, &cfg.QueryFilter, "(&(objectClass=person)(|(uid={user})(mail={user})))")
	set(t, &cfg.BindDN, "cn=postern,dc=example,dc=org")
	set(t, &cfg.DisabledFilter, "(employeeType=departed)")
	cfg.UserAttribute = "uid"
	cfg.BindPasswordFile = filepath.Join(t.TempDir(), "password")
	kit.Must(t, os.WriteFile(cfg.BindPasswordFile, []byte("service\n"), 0o600))
	return cfg
}

// byName returns the configuration without a search, over the socket.
func (s *slapd) byName(t *testing.T) ldap.Config {
	cfg := ldap.Defaults()
	cfg.ServerHost = make([]ldapclient.URL, 1)
	set(t, &cfg.ServerHost[0], "ldapi://"+s.socket)
	set(t, &cfg.UserDN, "uid={user},ou=people,dc=example,dc=org")
	set(t, &cfg.DisabledFilter, "(employeeType=departed)")
	cfg.UserAttribute = "uid"
	return cfg
}

func (s *slapd) checks(t *testing.T, cfg ldap.Config) storeChecks {
	t.Helper()
	cfg.Validate(func(key, why string) { t.Errorf("%s: %s", key, why) })
	store, err := ldap.New(cfg, auth.NewLog(slog.New(slog.DiscardHandler)))
	kit.Must(t, err)
	t.Cleanup(func() { store.Close() })
	d := storeChecks{store: store, server: s.daemon, user: "alice", wrong: "wrong password", nobody: "no such user"}
	if cfg.UserDN.String() != "" {
		d.wrong, d.nobody = "refused", "refused"
	}
	return d
}

func TestLDAP(t *testing.T) {
	t.Parallel()
	s := startSlapd(t)
	t.Run("search", func(t *testing.T) { s.checks(t, s.bySearch(t)).all(t) })
	t.Run("by name", func(t *testing.T) { s.checks(t, s.byName(t)).all(t) })
	t.Run("TLS", s.wantTLS)
	t.Run("one", func(t *testing.T) {
		cfg := s.bySearch(t)
		cfg.Connections = 1
		s.checks(t, cfg).manyAtOnce(t)
	})
}

func TestLDAPAccounts(t *testing.T) {
	t.Parallel()
	s := startSlapd(t)
	search, direct := s.checks(t, s.bySearch(t)), s.checks(t, s.byName(t))
	for _, d := range []storeChecks{search, direct} {
		d.want(t, "ALICE", "secret", "ok alice")
		d.want(t, "o'neil", "secret", "ok o'neil")
		d.want(t, "bob", "secret", "account disabled")
		d.want(t, "bob", "wrong", d.wrong)
		d.want(t, "expired", "secret", "password expired")
		d.want(t, "expired", "wrong", d.wrong)
		d.want(t, "reset", "secret", "password expired")

		d.want(t, "carol", "secret", "ok carol")
		s.setPassword(t, "carol", "changed")
		d.want(t, "carol", "secret", d.wrong)
		d.want(t, "carol", "changed", "ok carol")
		s.setPassword(t, "carol", "secret")
	}
	search.want(t, "alice@example.org", "secret", "ok alice")

	// After too many failures the server reports the right password as wrong.
	for range 3 {
		search.want(t, "locked", "wrong", "wrong password")
	}
	search.want(t, "locked", "secret", "wrong password")
	direct.want(t, "locked", "secret", "refused")
}

// A login fails temporarily if the service account may not read the attribute or the entry.
func TestLDAPHiddenState(t *testing.T) {
	t.Parallel()
	s := startSlapd(t)
	cfg := s.bySearch(t)
	set(t, &cfg.DisabledFilter, "(description=disabled)")
	s.checks(t, cfg).want(t, "alice", "secret", "temporary")
	set(t, &cfg.DisabledFilter, "(noSuchAttribute=TRUE)")
	s.checks(t, cfg).want(t, "alice", "secret", "temporary")
	set(t, &cfg.SearchBase, "dc=example,dc=net")
	d := s.checks(t, cfg)
	d.want(t, "alice", "secret", "temporary")
	if err := d.store.(*ldap.Store).Check(t.Context()); err == nil || !strings.Contains(err.Error(), "dc=example,dc=net") {
		t.Errorf("check: %v", err)
	}
}

// wantTLS connects with the right and with a wrong CA.
func (s *slapd) wantTLS(t *testing.T) {
	cfg := s.bySearch(t)
	if err := s.checks(t, cfg).store.(*ldap.Store).Check(t.Context()); err != nil {
		t.Error(err)
	}
	cfg.CAFile = kit.NewCA(t, t.TempDir()).File
	d := s.checks(t, cfg)
	d.want(t, "alice", "secret", "temporary")
	if err := d.store.(*ldap.Store).Check(t.Context()); err == nil || !strings.Contains(err.Error(), "with another key than the authority") {
		t.Errorf("another CA: %v", err)
	}
}

// If the first server hangs or is down, the second one is used.
func TestLDAPFailOver(t *testing.T) {
	t.Parallel()
	first, second := startSlapd(t), startSlapd(t)
	cfg := second.bySearch(t)
	cfg.StartTLS = false
	cfg.ServerHost = make([]ldapclient.URL, 2)
	set(t, &cfg.ServerHost[0], first.url)
	set(t, &cfg.ServerHost[1], second.url)
	d := first.checks(t, cfg)
	d.want(t, "alice", "secret", "ok alice")
	first.freeze(t)
	d.want(t, "alice", "secret", "ok alice")
	d.manyAtOnce(t)
	first.signal(t, syscall.SIGCONT)
	first.stop()
	d.want(t, "alice", "secret", "ok alice")
	first.start(t)
	second.stop()
	d.want(t, "alice", "secret", "ok alice")
}
