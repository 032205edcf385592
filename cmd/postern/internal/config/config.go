// Package config is the configuration file: config.toml.
//
// [Load] reads the file over the defaults, checks it, and returns a [Config], or an
// [Error] that shows every mistake with its line, a caret and the next step.
//
//	config     the sections, their defaults, and how they are checked
//	listeners  [[listener]], and the sections that a listener inherits
//	stores     [[auth.stores]]: the table of the kinds of store
//	decode     the values of the file: types, lists, unknown keys
//	environment  settings that the environment replaces
//	missing    what to do if there is no file
//	control    the path of the control socket
//	access     the files and hosts that a configuration names
//	place      finds the line and the column of a key
//	errors     formats mistakes
//	hint       guesses what was meant; postfix has the names of Postfix's options
//
// The type of a section belongs to the package that uses it: [server.Config],
// [certs.Config], and so on. A new key is a field there with a toml tag. A new
// section is a field of Config.
package config

import (
	"cmp"
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
	"postern/cmd/postern/internal/process"
	"postern/internal/access"
	"postern/internal/fileperm"
	"postern/policy"
	"postern/relay"
	"postern/relay/sign"
	"postern/relay/spool"
	"postern/server"
	"postern/server/auth"
	"postern/server/auth/userfile"
)

// Config is the whole file. The sections of Listeners have all values; the shared
// sections matter for what belongs to the process, and for messages in the spool whose
// listener is gone.
type Config struct {
	Server    server.Config  `toml:"server"`
	Listeners []Listener     `toml:"listener"`
	TLS       certs.Config   `toml:"tls"`
	Auth      Auth           `toml:"auth"`
	Policy    policy.Config  `toml:"policy"`
	Relay     Relay          `toml:"relay"`
	Log       logging.Config `toml:"log"`

	environment environment
}

// Auth is the section [auth], with the stores of all kinds.
type Auth struct {
	auth.Config
	Stores StoreList `toml:"stores"`
}

// Relay is the section [relay], with the keys of the spool and of DKIM.
type Relay struct {
	relay.Config
	Spool
	DKIM []sign.Key `toml:"dkim"`
}

// Spool is the keys of [relay] that belong to the spool.
type Spool struct {
	spool.Config
	SpoolSize        server.Size `toml:"spool_size"`          // bytes of all spooled messages
	SpoolSizePerUser server.Size `toml:"spool_size_per_user"` // ... of one user; 0: a quarter
}

// Default returns the configuration of an empty file.
func Default() *Config {
	c := &Config{
		Server: server.Defaults(),
		TLS:    certs.Defaults(),
		Auth:   Auth{Config: auth.Defaults(), Stores: StoreList{newStore(userfile.Kind)}},
		Policy: policy.Defaults(),
		Relay:  Relay{Config: relay.Defaults(), Spool: Spool{Config: spool.Defaults(), SpoolSize: 1 << 30}},
		Log:    logging.Defaults(),
	}
	c.SetListeners(server.DefaultListeners()...)
	return c
}

// maxSize bounds the read if --config names a wrong file.
const maxSize = 1 << 20 // bytes

// Load reads a file, and the variables of the environment that replace its values. It returns an *Error if the file can be read and is not valid. If
// permissions prevent that it is read, the error has the command that changes them. A file that
// every user of the machine can change is refused: see package fileperm.
func Load(path string) (*Config, error) { return load(path, openFile) }

// LoadOnce is Load for a command that reads the operand of --config once. It may be a pipe or a
// device, such as /dev/stdin or the <(command) of a shell.
func LoadOnce(path string) (*Config, error) {
	if IsStream(path) {
		return load(path, os.Open)
	}
	return Load(path)
}

// IsStream reports whether path is a pipe or a device, which cannot be read repeatedly.
func IsStream(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&(fs.ModeNamedPipe|fs.ModeDevice) != 0
}

func load(path string, open func(string) (*os.File, error)) (*Config, error) {
	text, err := read(path, open)
	if err != nil {
		return nil, err
	}
	cfg, err := parse(path, text, os.Environ())
	if err != nil {
		return nil, err
	}
	if problems := cfg.specialFiles(); len(problems) > 0 {
		return nil, newError(path, text, cfg.environment.mark(problems))
	}
	return cfg, nil
}

func openFile(path string) (*os.File, error) {
	if err := regular(path); err != nil {
		return nil, err
	}
	f, _, err := fileperm.Open(path, fileperm.Public, "a configuration file")
	return f, err
}

func read(path string, open func(string) (*os.File, error)) (string, error) {
	f, err := open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", process.WithStatus(process.ExitConfig, missingFile(path))
	}
	if err != nil {
		return "", process.ExplainUnreadable(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return "", fmt.Errorf("cannot read the configuration: %w", err)
	}
	if len(text) > maxSize {
		return "", fmt.Errorf("%s is larger than %d bytes and probably not a configuration file; name another file with --config", path, maxSize)
	}
	return strings.TrimPrefix(string(text), "\ufeff"), nil // the byte order mark of Windows editors
}

// Parse is Load for a text that has been read already. path is used in errors only, and neither
// the files that the configuration names are looked at, nor the environment.
func Parse(path, text string) (*Config, error) { return parse(path, text, nil) }

// parse decodes the file, and then the variables of environ, over the defaults.
func parse(path, text string, environ []string) (*Config, error) {
	cfg := Default()
	var t table
	meta, err := toml.Decode(text, &t)
	if err != nil {
		return nil, &Error{file: path, text: text, problems: []problem{syntaxProblem(text, err)}}
	}
	d := &decoder{meta: meta}
	listeners, given := t["listener"]
	delete(t, "listener") // the shared sections come first, wherever they are in the file
	d.table("", t, fieldsOf(reflect.ValueOf(cfg).Elem()))
	variables, problems := readEnvironment(environ)
	d.problems = append(append(d.problems, problems...), variables.apply(cfg)...)
	cfg.SetListeners(server.DefaultListeners()...)
	if given {
		d.listeners(cfg, listeners)
	}
	if len(d.problems) == 0 { // a section with an undecodable key would be reported twice
		cfg.validate(func(path, why string) { d.bad(path, why, "") })
		variables.mark(d.problems)
	}
	if len(d.problems) > 0 {
		return nil, newError(path, text, d.problems)
	}
	cfg.setHeloNames()
	return cfg, nil
}

// setHeloNames makes server.hostname the name that next hops see, which for Postfix is
// myhostname, too. The name of the machine is often not fully qualified, and a hop with
// reject_non_fqdn_helo_hostname would refuse every message.
func (c *Config) setHeloNames() {
	set := func(r *Relay) { r.HeloName = cmp.Or(r.HeloName, c.Server.Hostname) }
	set(&c.Relay)
	for i := range c.Listeners {
		set(&c.Listeners[i].Relay)
	}
}

// validate checks what depends on more than one value.
func (c *Config) validate(bad func(path, why string)) {
	type mistake struct{ path, why string }
	seen := make(map[mistake]bool)
	in := func(section string) func(key, why string) {
		return func(key, why string) {
			path := join(section, key)
			seen[mistake{path, why}] = true
			bad(path, why)
		}
	}
	c.Server.Validate(in("server"))
	c.TLS.Validate(in("tls"))
	c.Auth.Validate(in("auth"))
	c.Policy.Validate(in("policy"))
	c.Relay.Validate(in("relay"))
	c.Log.Validate(in("log"))
	if size, message := c.Relay.SpoolSizePerUser, c.Server.MessageSizeLimit; size != 0 && size < message {
		bad("relay.spool_size_per_user", fmt.Sprintf("is %s, so a message of server.message_size_limit, which is %s, could not be spooled; "+
			"raise spool_size_per_user, or lower message_size_limit", size, message))
	}
	c.validateListeners(bad, func(path, why string) bool { return seen[mistake{path, why}] })
}

// Validate checks the section [auth].
func (c *Auth) Validate(bad func(key, why string)) {
	c.Config.Validate(bad)
	if len(c.Stores) == 0 {
		bad("stores", "is empty, so no user could log in; leave it out for the user file "+userfile.Defaults().Path)
	}
	c.Stores.Validate(bad)
	if c.Stores.DovecotOnly() && c.Realm != "" {
		bad("realm", "has no effect if Dovecot is the only store, because Dovecot receives the login as the client sends it; "+
			"set auth_default_realm in Dovecot's configuration")
	}
}

// Validate checks the section [relay].
func (c *Relay) Validate(bad func(key, why string)) {
	c.Config.Validate(bad)
	c.Spool.Config.Validate(bad)
	if c.SpoolSize < 1 {
		bad("spool_size", `leaves no space for a message; write a size such as "1GiB", or leave out the key "spool" to use no spool`)
	}
	sign.Validate(c.DKIM, bad)
}

// Access adds the files and hosts of the section to list. key makes the full name of a key.
func (c *Relay) Access(key func(string) string, list *access.List) {
	c.Config.Access(key, list)
	sign.Access(c.DKIM, key, list)
}
