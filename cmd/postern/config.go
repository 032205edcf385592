package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"strings"

	"github.com/BurntSushi/toml"

	"postern/certs"
	"postern/cmd/postern/internal/logging"
	"postern/policy"
	"postern/relay"
	"postern/relay/sign"
	"postern/relay/spool"
	"postern/server"
	"postern/server/auth"
	"postern/server/auth/userfile"
)

// Config is the whole file. The type of each section belongs to the package
// that obeys it.
type Config struct {
	Server    server.Config     `toml:"server"`
	Listeners []server.Listener `toml:"listener"`
	TLS       certs.Config      `toml:"tls"`
	Auth      authConfig        `toml:"auth"`
	Policy    policy.Config     `toml:"policy"`
	Relay     relayConfig       `toml:"relay"`
	Log       logging.Config    `toml:"log"`
}

// authConfig is the section [auth], with the stores of all kinds.
type authConfig struct {
	auth.Config
	Stores storeList `toml:"stores"`
}

// relayConfig is the section [relay], with the keys of the decorators.
type relayConfig struct {
	relay.Config
	SpoolConfig
	SpoolSize server.Size `toml:"spool_size"` // bytes of all spooled messages
	DKIM      []sign.Key  `toml:"dkim"`
}

// SpoolConfig is named so to stand beside relay's.
type SpoolConfig = spool.Config

// Validate looks at both, which know nothing of each other.
func (c *relayConfig) Validate(bad func(key, why string)) {
	c.Config.Validate(bad)
	c.SpoolConfig.Validate(bad)
	if c.SpoolSize < 1 {
		bad("spool_size", `nothing could be kept: write a size such as "1GiB"; to have no spool, leave out the key "spool"`)
	}
	sign.Validate(c.DKIM, bad)
}

// newConfig is the configuration of an empty file.
func newConfig() *Config {
	return &Config{
		Server:    server.Defaults(),
		Listeners: server.DefaultListeners(),
		TLS:       certs.Defaults(),
		Auth:      authConfig{Config: auth.Defaults(), Stores: storeList{newStore(userfile.Kind)}},
		Policy:    policy.Defaults(),
		Relay:     relayConfig{Config: relay.Defaults(), SpoolConfig: spool.Defaults(), SpoolSize: 1 << 30},
		Log:       logging.Defaults(),
	}
}

// newElement is what an element of an array of tables is before its own keys
// are read.
func newElement(t reflect.Type) reflect.Value {
	switch t {
	case reflect.TypeFor[server.Listener]():
		return reflect.ValueOf(server.NewListener())
	}
	return reflect.Zero(t)
}

// maxConfigSize keeps the wrong file from being read for ever.
const maxConfigSize = 1 << 20 // bytes

// loadConfig reads the file over the defaults. What is wrong in it comes back
// as one *configError that shows every place.
func loadConfig(path string) (*Config, error) {
	text, err := readConfig(path)
	if err != nil {
		return nil, err
	}
	cfg, err := parseConfig(path, text)
	if err != nil {
		return nil, err
	}
	if special := specialFiles(cfg); len(special) > 0 {
		return nil, newConfigError(path, text, special)
	}
	return cfg, nil
}

func readConfig(path string) (string, error) {
	if err := regular(path); err != nil {
		return "", err
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("there is no configuration %s; copy config.toml.example to it "+
			"(an empty file is valid and means the defaults), or name another one with --config", path)
	}
	if err != nil {
		return "", explainUnreadable(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfigSize+1))
	if err != nil {
		return "", fmt.Errorf("cannot read the configuration: %w", err)
	}
	if len(text) > maxConfigSize {
		return "", fmt.Errorf("%s is larger than %d bytes, so it is hardly a configuration", path, maxConfigSize)
	}
	return strings.TrimPrefix(string(text), "\ufeff"), nil
}

// parseConfig is loadConfig with the file read.
func parseConfig(path, text string) (*Config, error) {
	cfg := newConfig()
	var t table
	meta, err := toml.Decode(text, &t)
	if err != nil {
		return nil, &configError{file: path, text: text, problems: []problem{syntaxProblem(text, err)}}
	}
	d := &decoder{meta: meta}
	d.table("", t, reflect.ValueOf(cfg).Elem())
	if len(d.problems) == 0 { // half a section would be reported twice
		cfg.validate(func(path, why string) { d.bad(path, why, "") })
	}
	if len(d.problems) > 0 {
		return nil, newConfigError(path, text, d.problems)
	}
	return cfg, nil
}

// validate looks at what no single value can know.
func (c *Config) validate(bad func(path, why string)) {
	in := func(section string) func(key, why string) {
		return func(key, why string) { bad(join(section, key), why) }
	}
	c.Server.Validate(in("server"))
	c.validateListeners(bad)
	c.TLS.Validate(in("tls"))
	c.Auth.Validate(in("auth"))
	c.validateStores(bad)
	c.Policy.Validate(in("policy"))
	c.Relay.Validate(in("relay"))
	c.Log.Validate(in("log"))
}

func (c *Config) validateListeners(bad func(path, why string)) {
	if len(c.Listeners) == 0 {
		bad("listener", "no listener: nobody could connect; leave it out for the ports 587 and 465")
	}
	seen := make(map[string]bool)
	for i := range c.Listeners {
		l, at := &c.Listeners[i], fmt.Sprintf("listener[%d]", i)
		l.Validate(func(key, why string) { bad(join(at, key), why) })
		if seen[l.Name] {
			bad(at+".name", fmt.Sprintf("%q is the name of an earlier listener; give each a name of its own", l.Name))
		}
		seen[l.Name] = true
	}
}

func (c *Config) validateStores(bad func(path, why string)) {
	if len(c.Auth.Stores) == 0 {
		bad("auth.stores", "no store: nobody could log in; leave it out for the user file "+userfile.Defaults().Path)
	}
	c.Auth.Stores.Validate(func(key, why string) { bad(join("auth", key), why) })
	if c.Auth.Stores.dovecotAlone() && c.Auth.Realm != "" {
		bad("auth.realm", "has no place where Dovecot is the only store, which hears what the client sends; set auth_default_realm in Dovecot's configuration")
	}
}
