package relay

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"postern/internal/access"
	"postern/internal/fileperm"
	"postern/internal/hosturl"
)

// Config is the section [relay]. Names in parentheses are those of Postfix.
type Config struct {
	// NextHops receive the messages: the first one while it works, otherwise the
	// others in their order. (relayhost)
	NextHops []HopURL `toml:"next_hops"`

	// Patience is how long one transaction waits in total for a hop that is down,
	// before the client is asked to try again later.
	Patience time.Duration `toml:"patience"`

	// HeloName is the name in EHLO; empty means the name of the machine. (smtp_helo_name)
	HeloName string `toml:"helo_name"`

	// Credentials is a file with the user and the password for hops that offer AUTH:
	// "user:password" on one line, or each on a line. Other users of the machine must
	// not be able to read it. (smtp_sasl_password_maps)
	Credentials string `toml:"credentials"`

	// CAFile holds the PEM certificates of the CAs that hops are verified with, instead
	// of those of the system. (smtp_tls_CAfile)
	CAFile string `toml:"ca_file"`

	// Verify is whether the certificate of a hop must be valid for its name. It can be
	// switched off for loopback only. (smtp_tls_security_level)
	Verify bool `toml:"verify"`

	// ConnectTimeout bounds connecting, TLS, greeting, EHLO and AUTH together.
	// (smtp_connect_timeout)
	ConnectTimeout time.Duration `toml:"connect_timeout"`

	// CommandTimeout bounds MAIL, RCPT and DATA, each with its reply; MAIL and RCPT
	// together, if they are sent together. (smtp_rcpt_timeout)
	CommandTimeout time.Duration `toml:"command_timeout"`

	// DataTimeout bounds sending the body and the hop's reply to it, both together.
	// (smtp_data_done_timeout)
	DataTimeout time.Duration `toml:"data_timeout"`

	Pool PoolConfig `toml:"pool"`
}

// PoolConfig is the section [relay.pool]: the connections to each hop.
type PoolConfig struct {
	// Connections is the maximum number of connections to one hop. It must be less than
	// what the hop allows. One user can have three quarters of them.
	// (smtp_destination_concurrency_limit)
	Connections int `toml:"connections"`

	// IdleTime is how long an unused connection is kept. Each one occupies a process of
	// a Postfix hop. (smtp_connection_cache_time_limit)
	IdleTime time.Duration `toml:"idle_time"`

	// Messages is the number of messages after which a connection is replaced.
	// (smtp_connection_reuse_count_limit)
	Messages int `toml:"messages"`
}

// Defaults returns the section for an empty file.
//
// RFC 6409, section 5.3: a submission server replies within two minutes, even to DATA.
// The sum of patience, one slow command and the data is less than that.
func Defaults() Config {
	return Config{
		NextHops: []HopURL{{hosturl.URL{Scheme: schemePlain, Host: "localhost", Address: "localhost:25"}}},

		Patience:       30 * time.Second,
		Verify:         true,
		ConnectTimeout: 10 * time.Second,
		CommandTimeout: 25 * time.Second,
		DataTimeout:    60 * time.Second,
		Pool:           PoolConfig{Connections: 20, IdleTime: 30 * time.Second, Messages: 100},
	}
}

// Access adds the hops, and the files of the section, to list. key makes the full name of
// a key.
func (c *Config) Access(key func(string) string, list *access.List) {
	for _, u := range c.NextHops {
		list.Connect(key("next_hops"), u.String())
	}
	list.ReadAs(fileperm.Secret, key("credentials"), c.Credentials)
	list.Read(key("ca_file"), c.CAFile)
}

// Validate calls bad for each key whose value cannot work.
func (c *Config) Validate(bad func(key, why string)) {
	if len(c.NextHops) == 0 {
		bad("next_hops", `no next hop to send to: leave the key out for ["smtp://localhost:25"]`)
	}
	seen := map[HopURL]bool{}
	for _, u := range c.NextHops {
		if seen[u] {
			bad("next_hops", fmt.Sprintf("%s is listed twice: remove one", u))
		}
		seen[u] = true
		if !c.Verify && u.secure() && !u.IsLocal() {
			bad("verify", fmt.Sprintf("verify = false is for loopback only; for %s it would give mail and password to any server in between: set ca_file to the CA of the hop instead", u))
		}
		if c.Credentials != "" && !u.secure() && !u.IsLocal() {
			bad("credentials", fmt.Sprintf("the password would be sent to %s in clear text: write smtp+starttls:// or smtps:// in next_hops", u))
		}
	}
	if !validHelo(c.HeloName) {
		bad("helo_name", "not a host name: write the name for EHLO, such as mail.example.org, or leave the key out")
	}
	c.validateNumbers(bad)
}

func (c *Config) validateNumbers(bad func(key, why string)) {
	durations := []struct {
		key   string
		value time.Duration
	}{
		{"connect_timeout", c.ConnectTimeout},
		{"command_timeout", c.CommandTimeout},
		{"data_timeout", c.DataTimeout},
		{"pool.idle_time", c.Pool.IdleTime},
	}
	for _, d := range durations {
		if d.value <= 0 {
			bad(d.key, `must be positive: write a duration such as "30s", or leave the key out`)
		}
	}
	if c.Patience < 0 {
		bad("patience", `must not be negative: write "0s" to give up at the first failure, or leave the key out`)
	}
	if c.Pool.Connections < 1 {
		bad("pool.connections", "no message can be sent without a connection: write 1 or more")
	}
	if c.Pool.Messages < 1 {
		bad("pool.messages", "write 1 or more; 1 means a new connection for each message")
	}
}

// validHelo accepts the characters of host names and address literals, and the empty
// name.
func validHelo(name string) bool {
	odd := func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._:[]", r))
	}
	return len(name) <= 255 && !strings.ContainsFunc(name, odd)
}

// A HopURL is the address of a next hop and how to connect to it:
//
//	smtp://HOST[:PORT]           clear text, port 25
//	smtp+starttls://HOST[:PORT]  STARTTLS enforced, port 587
//	smtps://HOST[:PORT]          implicit TLS, port 465
//	smtp+unix:///PATH            clear text over a Unix socket
//
// It is a comparable value and holds no secret. The zero value is no hop.
type HopURL struct{ hosturl.URL }

const (
	schemePlain    = "smtp"
	schemeTLS      = "smtps"
	schemeStartTLS = "smtp+starttls"
	schemeUnix     = "smtp+unix"
)

var errURLForm = errors.New("write smtp://HOST:PORT, smtp+starttls://HOST:PORT, smtps://HOST:PORT or smtp+unix:///PATH")

// UnmarshalText reads the spelling of the configuration. No error repeats the text,
// which may contain a password.
func (u *HopURL) UnmarshalText(text []byte) error {
	scheme, rest, ok := hosturl.SplitScheme(string(text))
	port := map[string]string{schemePlain: "25", schemeTLS: "465", schemeStartTLS: "587"}[scheme]
	var parsed hosturl.URL
	var err error
	switch {
	case ok && scheme == schemeUnix:
		parsed, err = hosturl.Socket(scheme, rest)
	case !ok || port == "":
		return fmt.Errorf("not the URL of a next hop: %w", errURLForm)
	default:
		parsed, err = hosturl.Parse(scheme, rest, port)
		if errors.Is(err, hosturl.ErrUser) {
			err = fmt.Errorf("%w: put them into a file and name it in relay.credentials", err)
		} else if err != nil && !errors.Is(err, hosturl.ErrPort) {
			err = fmt.Errorf("%w: %w", err, errURLForm)
		}
	}
	if err == nil {
		u.URL = parsed
	}
	return err
}

// MarshalText is the reverse of UnmarshalText; the port is always written.
func (u HopURL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

func (u HopURL) secure() bool { return u.Scheme == schemeTLS || u.Scheme == schemeStartTLS }
