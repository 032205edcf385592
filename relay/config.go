package relay

import (
	"fmt"
	"strings"
	"time"

	"postern/internal/hosturl"
)

// Config is the section [relay].
type Config struct {
	// NextHops take the messages: the first while it is well, the others, in
	// their order, when it is not. (relayhost)
	NextHops []HopURL `toml:"next_hops"`

	// Patience is how long one transaction waits in total for a hop to come
	// (back) before the client is asked to try again later.
	Patience time.Duration `toml:"patience"`

	// HeloName is said in EHLO; empty means the name of the host.
	// (smtp_helo_name)
	HeloName string `toml:"helo_name"`

	// Credentials is a file with the user and the password for hops that
	// offer AUTH: "user:password" on one line, or each on its own line. It
	// must not be readable by everybody. (smtp_sasl_password_maps)
	Credentials string `toml:"credentials"`

	// CAFile holds the PEM certificates that vouch for the hops, instead of
	// the system's. (smtp_tls_CAfile)
	CAFile string `toml:"ca_file"`

	// Verify says whether a hop must prove its name by its certificate. It
	// can be switched off for loopback only. (smtp_tls_security_level)
	Verify bool `toml:"verify"`

	// ConnectTimeout bounds connecting, TLS, greeting, EHLO and AUTH
	// together. (smtp_connect_timeout)
	ConnectTimeout time.Duration `toml:"connect_timeout"`

	// CommandTimeout bounds MAIL, RCPT and DATA, each with its answer; MAIL
	// and RCPT both, if they go to the hop together.
	// (smtp_rcpt_timeout)
	CommandTimeout time.Duration `toml:"command_timeout"`

	// DataTimeout bounds the way of the body and the hop's answer to it,
	// both together. (smtp_data_done_timeout)
	DataTimeout time.Duration `toml:"data_timeout"`

	Pool PoolConfig `toml:"pool"`
}

// PoolConfig is the section [relay.pool]: the connections to each hop.
type PoolConfig struct {
	// Connections are open at once to one hop at most; it must be less than
	// what the hop allows. One user gets three quarters of them at most.
	// (smtp_destination_concurrency_limit)
	Connections int `toml:"connections"`

	// IdleTime is how long a connection that nobody needs is kept. Each one
	// occupies a process of a Postfix hop. (smtp_connection_cache_time_limit)
	IdleTime time.Duration `toml:"idle_time"`

	// Messages go over one connection before it is replaced.
	// (smtp_connection_reuse_count_limit)
	Messages int `toml:"messages"`
}

// Defaults is the section that an empty file means.
//
// RFC 6409 5.3: a submission server answers within two minutes, even to DATA.
// Patience, one slow command and the data together stay under them.
func Defaults() Config {
	return Config{
		NextHops:       []HopURL{{URL: hosturl.URL{Scheme: schemePlain, Host: "localhost", Address: "localhost:25"}}},
		Patience:       30 * time.Second,
		Verify:         true,
		ConnectTimeout: 10 * time.Second,
		CommandTimeout: 25 * time.Second,
		DataTimeout:    60 * time.Second,
		Pool:           PoolConfig{Connections: 20, IdleTime: 30 * time.Second, Messages: 100},
	}
}

// Validate tells bad of each key whose value cannot work.
func (c *Config) Validate(bad func(key, why string)) {
	if len(c.NextHops) == 0 {
		bad("next_hops", `no next hop: nothing could be sent; leave the key out for ["smtp://localhost:25"]`)
	}
	seen := map[HopURL]bool{}
	for _, u := range c.NextHops {
		if seen[u] {
			bad("next_hops", fmt.Sprintf("%s stands there twice: remove one", u))
		}
		seen[u] = true
		c.validateHop(u, bad)
	}
	if !validHelo(c.HeloName) {
		bad("helo_name", "not a host name: write the name that the next hop shall see, such as mail.example.org, or leave the key out")
	}
	c.validateNumbers(bad)
}

func (c *Config) validateHop(u HopURL, bad func(key, why string)) {
	if !c.Verify && u.secure() && !u.IsLocal() {
		bad("verify", fmt.Sprintf("verify = false would hand mail and password to whoever answers for %s: it is for loopback only; name the CA of the hop in ca_file instead", u))
	}
	if c.Credentials != "" && !u.secure() && !u.IsLocal() {
		bad("credentials", fmt.Sprintf("the password would go to %s in clear text: write smtp+starttls:// or smtps:// in next_hops", u))
	}
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
			bad(d.key, `must be more than nothing: write a duration such as "30s", or leave the key out`)
		}
	}
	if c.Patience < 0 {
		bad("patience", `cannot be negative: write "0s" to give up at the first failure, or leave the key out`)
	}
	if c.Pool.Connections < 1 {
		bad("pool.connections", "without a connection nothing can be sent: write 1 or more")
	}
	if c.Pool.Messages < 1 {
		bad("pool.messages", "write 1 or more; 1 means a new connection for each message")
	}
}

// validHelo allows the characters of host names and address literals. The
// empty name stands for the name of the host.
func validHelo(name string) bool {
	odd := func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._:[]", r))
	}
	return len(name) <= 255 && !strings.ContainsFunc(name, odd)
}
