package server

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSize(t *testing.T) {
	tests := []struct {
		text string
		want Size
		back string
	}{
		{"0", 0, "0"},
		{"1", 1, "1"},
		{"52428800", 50 << 20, "50MiB"},
		{"50MiB", 50 << 20, "50MiB"},
		{"50 MiB", 50 << 20, "50MiB"},
		{"100B", 100, "100"},
		{"1536KiB", 1536 << 10, "1536KiB"},
		{"2GiB", 2 << 30, "2GiB"},
		{"1048577", 1<<20 + 1, "1048577"},
	}
	for _, test := range tests {
		var s Size
		if err := s.UnmarshalText([]byte(test.text)); err != nil || s != test.want || s.String() != test.back {
			t.Errorf("%q is %d, %q, %v", test.text, int64(s), s, err)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "1.5MiB", "50 MB", "50M", "mib", "9999999999999999999", "9999999999999GiB", "0x10"} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err == nil || s != 0 {
			t.Errorf("%q is %d, %v", text, int64(s), err)
		}
	}
}

func TestSizeTOML(t *testing.T) {
	for _, value := range []any{int64(65536), "64KiB", "65536"} {
		var s Size
		if err := s.UnmarshalTOML(value); err != nil || s != 64<<10 {
			t.Errorf("%v is %d, %v", value, int64(s), err)
		}
	}
	for _, value := range []any{1.5, true, int64(-1), nil} {
		if err := new(Size).UnmarshalTOML(value); err == nil {
			t.Errorf("%v is a size", value)
		}
	}
}

func TestMode(t *testing.T) {
	for _, mode := range []Mode{STARTTLS, TLS} {
		text, _ := mode.MarshalText()
		var back Mode
		if err := back.UnmarshalText(text); err != nil || back != mode {
			t.Errorf("%s comes back as %s, %v", mode, back, err)
		}
	}
	var m Mode
	if err := m.UnmarshalText([]byte("ssl")); err == nil || !strings.Contains(err.Error(), "starttls") {
		t.Errorf("ssl: %v", err)
	}
}

// TestLimitsOver goes through the fields, so that a new one is not forgotten.
func TestLimitsOver(t *testing.T) {
	counted := []string{"Connections", "ConnectionsPerClient", "ConnectionsPerUser", "Unauthenticated"} // by the limiter of the listener
	base := Defaults().Limits
	inherited := reflect.ValueOf(Limits{}.over(base))
	var own Limits
	v := reflect.ValueOf(&own).Elem()
	for i := range v.NumField() {
		v.Field(i).SetInt(int64(i + 1))
	}
	kept := reflect.ValueOf(own.over(base))
	for i := range v.NumField() {
		name, want := v.Type().Field(i).Name, reflect.ValueOf(base).Field(i).Int()
		if slices.Contains(counted, name) {
			want = 0
		}
		if got := inherited.Field(i).Int(); got != want {
			t.Errorf("%s left open is %d", name, got)
		}
		if got := kept.Field(i).Int(); got != int64(i+1) {
			t.Errorf("%s of its own is %d", name, got)
		}
	}
}

func TestDefaultsAreValid(t *testing.T) {
	config := Defaults()
	config.Validate(func(key, why string) { t.Errorf("%s %s", key, why) })
	for _, l := range DefaultListeners() {
		l.Validate(func(key, why string) { t.Errorf("%s: %s %s", l.Name, key, why) })
	}
}

func TestConfigValidate(t *testing.T) {
	tests := []struct {
		key    string
		change func(*Config)
	}{
		{"hostname", func(c *Config) { c.Hostname = "mail example" }},
		{"origin", func(c *Config) { c.Origin = "alice@example.org" }},
		{"message_size_limit", func(c *Config) { c.MessageSizeLimit = 65535 }},
		{"stage_memory", func(c *Config) { c.StageMemory = 1000 }},
		{"stage_disk", func(c *Config) { c.StageDisk = c.MessageSizeLimit - 1 }},
		{"shutdown_timeout", func(c *Config) { c.ShutdownTimeout = 0 }},
		{"stage_dir", func(c *Config) { c.StageDir = "tmp" }},
		{"state_dir", func(c *Config) { c.StateDir = "state" }},
		{"limits.connections", func(c *Config) { c.Limits.Connections = 0 }},
		{"limits.recipients", func(c *Config) { c.Limits.Recipients = 99 }},
		{"limits.refused_commands", func(c *Config) { c.Limits.RefusedCommands = -1 }},
		{"limits.data_timeout", func(c *Config) { c.Limits.DataTimeout = time.Millisecond }},
		{"limits.login_time", func(c *Config) { c.Limits.LoginTime = 0 }},
	}
	for _, test := range tests {
		config := Defaults()
		test.change(&config)
		if got := complaints(config.Validate); !slices.Equal(got, []string{test.key}) {
			t.Errorf("%s: complaints about %q", test.key, got)
		}
	}
}

func TestListenerValidate(t *testing.T) {
	tests := []struct {
		key    string
		change func(*Listener)
	}{
		{"name", func(l *Listener) { l.Name = "" }},
		{"name", func(l *Listener) { l.Name = "a b" }},
		{"address", func(l *Listener) { l.Address = nil }},
		{"address", func(l *Listener) { l.Address = []string{"587"} }},
		{"address", func(l *Listener) { l.Address = []string{":99999"} }},
		{"address", func(l *Listener) { l.Address = []string{"mail.example.org:587"} }},
		{"address", func(l *Listener) { l.Address = []string{":587", "[::1]:smtp"} }},
		{"limits.messages", func(l *Listener) { l.Limits.Messages = -1 }},
		{"limits.recipients", func(l *Listener) { l.Limits.Recipients = 50 }},
		{"limits.command_timeout", func(l *Listener) { l.Limits.CommandTimeout = -time.Second }},
	}
	for _, test := range tests {
		l := NewListener()
		l.Name, l.Address = "submission", []string{"192.0.2.1:587", "[2001:db8::1]:587", ":0"}
		if got := complaints(l.Validate); len(got) > 0 {
			t.Fatalf("without a change: complaints about %q", got)
		}
		test.change(&l)
		if got := complaints(l.Validate); !slices.Equal(got, []string{test.key}) {
			t.Errorf("%s: complaints about %q", test.key, got)
		}
	}
}

func complaints(validate func(func(key, why string))) (keys []string) {
	validate(func(key, _ string) { keys = append(keys, key) })
	return keys
}
