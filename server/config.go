package server

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"postern/relay/message"
	"postern/server/smtpd"
)

// Config is the [server] section.
type Config struct {
	Hostname           string               `toml:"hostname"`            // name in greeting and Received; empty: the machine's
	Origin             string               `toml:"origin"`              // domain for addresses without one; empty: Hostname
	User               string               `toml:"user"`                // the account to become after binding as root
	Sandbox            bool                 `toml:"sandbox"`             // confine the process to what the configuration names
	HideClient         bool                 `toml:"hide_client"`         // leave client address and EHLO name out of Received
	MessageSizeLimit   Size                 `toml:"message_size_limit"`  // bytes of a message as the client sends it
	BareNewline        message.BareNewlines `toml:"bare_newline"`        // what to do with bare CR and LF in the content
	StageDir           string               `toml:"stage_dir"`           // folder for large messages in transit; empty: the system's
	StateDir           string               `toml:"state_dir"`           // folder for what survives a restart; empty: the default of the command
	Control            string               `toml:"control"`             // socket for commands that ask the running server; "off": none; empty: the default of the command
	StageMemory        Size                 `toml:"stage_memory"`        // bytes of messages held in memory, all together
	StageDisk          Size                 `toml:"stage_disk"`          // bytes of messages in StageDir, all together; 0: half of what is free, at most 4 GiB
	SuppressDuplicates bool                 `toml:"suppress_duplicates"` // do not send a message again that a client repeats because its 250 was lost
	ProxyTrusted       []netip.Prefix       `toml:"proxy_trusted"`       // networks that must send a PROXY header
	ShutdownTimeout    time.Duration        `toml:"shutdown_timeout"`    // how long transactions in flight may continue
	Limits             Limits               `toml:"limits"`
}

// ControlOff is the value of control without a socket.
const ControlOff = "off"

// maxControl is the longest path of a socket on all systems, in bytes.
const maxControl = 100

// Limits bound what clients may use. In [server.limits] they hold for the whole server. In
// the limits of a listener, a value of zero inherits that of the server, and the counts of
// connections hold for that listener in addition.
type Limits struct {
	Connections          int           `toml:"connections"`            // open at once
	ConnectionsPerClient int           `toml:"connections_per_client"` // of one IPv4 address or IPv6 /64
	ConnectionsPerUser   int           `toml:"connections_per_user"`   // of one user that has logged in
	Unauthenticated      int           `toml:"unauthenticated"`        // open at once that have not logged in; at most a quarter of Connections
	Recipients           int           `toml:"recipients"`             // per message
	Messages             int           `toml:"messages"`               // per session
	RecipientOvershoot   int           `toml:"recipient_overshoot"`    // recipients above the limit, per message, that do not count as refused commands
	RefusedCommands      int           `toml:"refused_commands"`       // since the last accepted message, then 421
	JunkCommands         int           `toml:"junk_commands"`          // NOOP, RSET and the like since the last accepted message; each further one is a refused command
	CommandTimeout       time.Duration `toml:"command_timeout"`        // for the next command line
	LoginCommandTimeout  time.Duration `toml:"login_command_timeout"`  // the same before authentication
	LoginTime            time.Duration `toml:"login_time"`             // from connect to a successful AUTH
	DataTimeout          time.Duration `toml:"data_timeout"`           // for the next block of a message
	MinDataRate          int           `toml:"min_data_rate"`          // octets per second of a message, averaged over DataTimeout
}

// Listener is one [[listener]]: what a service line in master.cf is.
type Listener struct {
	Name        string   `toml:"name"`
	Address     []string `toml:"address"`
	Mode        Mode     `toml:"mode"`
	RequireAuth bool     `toml:"require_auth"`
	Limits      Limits   `toml:"limits"`

	DiscardEHLOKeywords []string `toml:"discard_ehlo_keywords"` // that EHLO does not list (smtpd_discard_ehlo_keywords)
}

// Defaults returns the configuration of an empty file.
func Defaults() Config {
	return Config{
		Sandbox:          true,
		HideClient:       true,
		MessageSizeLimit: 50 << 20,
		StageMemory:      64 << 20,
		ShutdownTimeout:  30 * time.Second,
		Limits: Limits{
			Connections:          10_000,
			ConnectionsPerClient: 50,
			ConnectionsPerUser:   50,
			Unauthenticated:      1_000,
			Recipients:           1_000,
			Messages:             1_000,
			RecipientOvershoot:   1_000,
			RefusedCommands:      20,
			JunkCommands:         100,
			CommandTimeout:       5 * time.Minute,
			LoginCommandTimeout:  time.Minute,
			LoginTime:            3 * time.Minute,
			DataTimeout:          3 * time.Minute,
			MinDataRate:          500,
		},
	}
}

// DefaultListeners returns the listeners of a file that names none.
func DefaultListeners() []Listener {
	return []Listener{
		{Name: "submission", Address: []string{":587"}, Mode: STARTTLS, RequireAuth: true},
		{Name: "submissions", Address: []string{":465"}, Mode: TLS, RequireAuth: true},
	}
}

// NewListener returns the defaults of a [[listener]].
func NewListener() Listener { return Listener{Mode: STARTTLS, RequireAuth: true} }

// Names returns the name of the server, by default the machine's own, and the domain for
// addresses without one, by default that name.
func (c *Config) Names() (hostname, origin string) {
	hostname = c.Hostname
	if hostname == "" {
		hostname, _ = os.Hostname()
	}
	hostname = cmp.Or(hostname, "localhost")
	return hostname, cmp.Or(c.Origin, hostname)
}

// over returns l with base for the values that l does not set.
func (l Limits) over(base Limits) Limits {
	for _, v := range []struct{ own, base *int }{
		{&l.Recipients, &base.Recipients}, {&l.RecipientOvershoot, &base.RecipientOvershoot}, {&l.Messages, &base.Messages},
		{&l.RefusedCommands, &base.RefusedCommands}, {&l.JunkCommands, &base.JunkCommands},
		{&l.MinDataRate, &base.MinDataRate},
	} {
		if *v.own == 0 {
			*v.own = *v.base
		}
	}
	for _, v := range []struct{ own, base *time.Duration }{
		{&l.CommandTimeout, &base.CommandTimeout}, {&l.LoginCommandTimeout, &base.LoginCommandTimeout},
		{&l.LoginTime, &base.LoginTime}, {&l.DataTimeout, &base.DataTimeout},
	} {
		if *v.own == 0 {
			*v.own = *v.base
		}
	}
	return l
}

// Validate reports every value that cannot work. key is relative to [server].
func (c *Config) Validate(bad func(key, why string)) {
	for key, name := range map[string]string{"hostname": c.Hostname, "origin": c.Origin} {
		if why := badDomain(key, name); name != "" && why != "" {
			bad(key, why)
		}
	}
	if c.MessageSizeLimit < 64<<10 {
		bad("message_size_limit", "is below 64KiB; RFC 5321 4.5.3.1.7 asks for at least that")
	}
	if c.StageMemory < 1<<20 {
		bad("stage_memory", "is below 1MiB; give it at least that")
	}
	if c.StageDisk != 0 && c.StageDisk < c.MessageSizeLimit {
		bad("stage_disk", fmt.Sprintf("is %s, so a message of server.message_size_limit, which is %s, could not be received; "+
			"raise stage_disk, or lower message_size_limit", c.StageDisk, c.MessageSizeLimit))
	}
	if c.ShutdownTimeout <= 0 {
		bad("shutdown_timeout", "must be longer than zero, such as \"30s\"")
	}
	if c.StateDir != "" && !strings.HasPrefix(c.StateDir, "/") {
		bad("state_dir", "must be an absolute path")
	}
	if c.Control != "" && c.Control != ControlOff && (!strings.HasPrefix(c.Control, "/") || len(c.Control) > maxControl) {
		bad("control", fmt.Sprintf("must be the absolute path of a socket of at most %d bytes, such as \"/run/postern/control\", or %q", maxControl, ControlOff))
	}
	if c.StageDir != "" && !strings.HasPrefix(c.StageDir, "/") {
		bad("stage_dir", "must be an absolute path")
	}
	c.Limits.validate(1, func(key, why string) { bad("limits."+key, why) })
}

// validate reports limits below least: 1 for those of the server, 0 where zero inherits.
func (l *Limits) validate(least int, bad func(key, why string)) {
	for key, v := range map[string]int{
		"connections": l.Connections, "connections_per_client": l.ConnectionsPerClient,
		"connections_per_user": l.ConnectionsPerUser, "unauthenticated": l.Unauthenticated, "recipients": l.Recipients,
		"messages": l.Messages, "refused_commands": l.RefusedCommands,
		"recipient_overshoot": l.RecipientOvershoot, "junk_commands": l.JunkCommands,
		"min_data_rate": l.MinDataRate,
	} {
		if v < least {
			bad(key, fmt.Sprintf("must be at least %d", least))
		}
	}
	// RFC 5321, section 4.5.3.1.8: at least 100 recipients.
	if l.Recipients != 0 && l.Recipients < 100 {
		bad("recipients", "must be at least 100 (RFC 5321 4.5.3.1.8)")
	}
	for key, v := range map[string]time.Duration{
		"command_timeout": l.CommandTimeout, "login_command_timeout": l.LoginCommandTimeout,
		"login_time": l.LoginTime, "data_timeout": l.DataTimeout,
	} {
		if v < time.Duration(least)*time.Second {
			bad(key, fmt.Sprintf("must be at least %ds", least))
		}
	}
}

// Validate reports what is wrong with one listener; the caller finds names that are used
// twice. key is relative to the [[listener]].
func (l *Listener) Validate(bad func(key, why string)) {
	if l.Name == "" || strings.ContainsFunc(l.Name, func(r rune) bool { return r <= ' ' || r > '~' }) {
		bad("name", "must be a short name without blanks, such as \"submission\"")
	}
	if len(l.Address) == 0 {
		bad("address", "is missing; write for example address = [\":587\"]")
	}
	for _, a := range l.Address {
		if why := badAddress(a); why != "" {
			bad("address", fmt.Sprintf("%q %s", a, why))
		}
	}
	for _, keyword := range l.DiscardEHLOKeywords {
		if !slices.Contains(smtpd.Keywords, strings.ToUpper(keyword)) {
			bad("discard_ehlo_keywords", fmt.Sprintf("%q is not a keyword of this server; the keywords are %s", keyword, strings.Join(smtpd.Keywords, ", ")))
		}
	}
	l.Limits.validate(0, func(key, why string) { bad("limits."+key, why) })
}

func badAddress(a string) string {
	host, port, err := net.SplitHostPort(a)
	if _, noColon := strconv.ParseUint(a, 10, 16); noColon == nil {
		return fmt.Sprintf("is a port without an address; write \":%s\" for all addresses", a)
	}
	if err != nil {
		return "is not an address with a port; write \":587\", \"192.0.2.1:587\" or \"[2001:db8::1]:587\""
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		if n := map[string]int{"submission": 587, "submissions": 465, "smtps": 465, "smtp": 25}[port]; n != 0 {
			return fmt.Sprintf("has a port with a name; write %q", net.JoinHostPort(host, strconv.Itoa(n)))
		}
		return "has no port between 0 and 65535"
	}
	if host != "" {
		if _, err := netip.ParseAddr(host); err != nil {
			return "does not start with an IP address; leave it empty to listen on all"
		}
	}
	return ""
}

// Mode is how TLS begins on a listener.
type Mode uint8

const (
	STARTTLS Mode = iota // clear text that has to be upgraded: port 587
	TLS                  // TLS from the first byte: port 465 (RFC 8314, section 3.3)
)

var modeNames = [...]string{"starttls", "tls"}

func (m Mode) String() string { return modeNames[m] }

func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

func (m *Mode) UnmarshalText(text []byte) error {
	i, err := oneOf(string(text), modeNames[:])
	*m = Mode(i)
	return err
}

func oneOf(s string, names []string) (int, error) {
	for i, name := range names {
		if s == name {
			return i, nil
		}
	}
	return 0, fmt.Errorf("%q is not one of %q", s, names)
}

// Size is a number of bytes, written as 52428800 or "50MiB".
type Size int64

var units = []struct {
	suffix string
	bytes  Size
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"B", 1}, {"", 1}}

func (s Size) String() string {
	for i := 2; i >= 0; i-- {
		if u := units[i]; s != 0 && s%u.bytes == 0 {
			return strconv.FormatInt(int64(s/u.bytes), 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

func (s *Size) UnmarshalText(text []byte) error {
	for _, u := range units {
		digits, found := strings.CutSuffix(string(text), u.suffix)
		if !found {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 40)
		if err != nil || n < 0 {
			break
		}
		*s = Size(n) * u.bytes
		return nil
	}
	return fmt.Errorf("%q is not a size; write bytes, or a number with KiB, MiB or GiB", text)
}

// UnmarshalTOML takes a plain number as well as a string.
func (s *Size) UnmarshalTOML(value any) error {
	switch v := value.(type) {
	case int64:
		return s.UnmarshalText([]byte(strconv.FormatInt(v, 10)))
	case string:
		return s.UnmarshalText([]byte(v))
	}
	return fmt.Errorf("%v is not a size; write bytes, or a string such as \"50MiB\"", value)
}
