package logging

import (
	"fmt"
	"log/slog"
	"strings"
)

// Config is the section [log].
type Config struct {
	// Level is the lowest severity that is logged: "debug", "info", "warn" or
	// "error".
	Level Level `toml:"level"`

	// Format is the format of a line: "text" (key=value) or "json".
	Format Format `toml:"format"`

	// Destination is where lines are written: "stderr" or "syslog".
	Destination Destination `toml:"destination"`

	// SyslogName is the tag of the lines in the system log.
	SyslogName string `toml:"syslog_name"`
}

// Defaults returns the configuration of an empty section.
func Defaults() Config {
	return Config{
		Level:       Level(slog.LevelInfo),
		Format:      Text,
		Destination: Stderr,
		SyslogName:  "postern",
	}
}

// Validate calls bad for each key with an invalid value.
func (c *Config) Validate(bad func(key, why string)) {
	// RFC 5424, section 6.2.5, allows 48 printable characters for APP-NAME. In
	// the older format (RFC 3164) the tag ends at the first of ":[ ".
	if c.SyslogName == "" || len(c.SyslogName) > 48 || strings.ContainsFunc(c.SyslogName, invalidInTag) {
		bad("syslog_name", fmt.Sprintf("%q is not a valid tag for the system log; "+
			`use up to 48 letters, digits and -_./, such as "postern"`, c.SyslogName))
	}
}

func invalidInTag(r rune) bool { return r <= ' ' || r > '~' || r == ':' || r == '[' || r == ']' }

// A Level is a severity.
type Level slog.Level

// UnmarshalText parses a value of log.level.
func (l *Level) UnmarshalText(text []byte) error {
	levels := map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
	}
	level, ok := levels[string(text)]
	if !ok {
		return fmt.Errorf(`%q is not a log level; write "debug", "info", "warn" or "error"`, text)
	}
	*l = Level(level)
	return nil
}

func (l Level) String() string { return strings.ToLower(slog.Level(l).String()) }

// A Format is the format of a log line.
type Format string

// The formats.
const (
	Text Format = "text" // key=value
	JSON Format = "json"
)

// UnmarshalText parses a value of log.format.
func (f *Format) UnmarshalText(text []byte) error {
	*f = Format(text)
	if *f != Text && *f != JSON {
		return fmt.Errorf(`%q is not a log format; write "text" or "json"`, text)
	}
	return nil
}

// A Destination is where log lines are written.
type Destination string

// The destinations.
const (
	Stderr Destination = "stderr"
	Syslog Destination = "syslog"
)

// UnmarshalText parses a value of log.destination.
func (d *Destination) UnmarshalText(text []byte) error {
	*d = Destination(text)
	if *d != Stderr && *d != Syslog {
		return fmt.Errorf(`%q is not a log destination; write "stderr" (systemd, Docker) or "syslog"`, text)
	}
	return nil
}
