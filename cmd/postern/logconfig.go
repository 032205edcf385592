package main

import (
	"fmt"
	"log/slog"
	"strings"
)

// logConfig is the section [log].
type logConfig struct {
	// Level is the least severe kind of line that is written: "debug",
	// "info", "warn" or "error".
	Level logLevel `toml:"level"`

	// Format is how a line is written: "text" (key=value) or "json".
	Format logFormat `toml:"format"`

	// Destination is where lines go: "stderr" or "syslog".
	Destination logDestination `toml:"destination"`

	// SyslogName is the tag of the lines in the system log.
	SyslogName string `toml:"syslog_name"`
}

func logDefaults() logConfig {
	return logConfig{
		Level:       logLevel(slog.LevelInfo),
		Format:      textFormat,
		Destination: toStderr,
		SyslogName:  "postern",
	}
}

// Validate tells bad what is wrong with c, key by key.
func (c *logConfig) Validate(bad func(key, why string)) {
	// RFC 5424, section 6.2.5, allows 48 printable characters for APP-NAME; in
	// the older form the tag ends at the first of ":[ ".
	if c.SyslogName == "" || len(c.SyslogName) > 48 || strings.ContainsFunc(c.SyslogName, notInTag) {
		bad("syslog_name", fmt.Sprintf("%q cannot be a tag in the system log; "+
			`use up to 48 letters, digits and -_./, such as "postern"`, c.SyslogName))
	}
}

func notInTag(r rune) bool { return r <= ' ' || r > '~' || r == ':' || r == '[' || r == ']' }

type logLevel slog.Level

func (l *logLevel) UnmarshalText(text []byte) error {
	levels := map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
	}
	level, ok := levels[string(text)]
	if !ok {
		return fmt.Errorf(`%q is no level; write "debug", "info", "warn" or "error"`, text)
	}
	*l = logLevel(level)
	return nil
}

func (l logLevel) String() string { return strings.ToLower(slog.Level(l).String()) }

type logFormat string

const (
	textFormat logFormat = "text"
	jsonFormat logFormat = "json"
)

func (f *logFormat) UnmarshalText(text []byte) error {
	*f = logFormat(text)
	if *f != textFormat && *f != jsonFormat {
		return fmt.Errorf(`%q is no format of log lines; write "text" or "json"`, text)
	}
	return nil
}

type logDestination string

const (
	toStderr logDestination = "stderr"
	toSyslog logDestination = "syslog"
)

func (d *logDestination) UnmarshalText(text []byte) error {
	*d = logDestination(text)
	if *d != toStderr && *d != toSyslog {
		return fmt.Errorf(`%q is no place for log lines; write "stderr" (systemd, Docker) or "syslog"`, text)
	}
	return nil
}
