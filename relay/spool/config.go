package spool

import (
	"path/filepath"
	"time"
)

// Config is what the section [relay] says of the spool.
type Config struct {
	// Dir is the folder of the spool; empty means that there is none and
	// that clients wait for the next hop. (queue_directory)
	Dir string `toml:"spool"`

	// Lifetime is how long a message is tried before its sender gets it
	// back. (maximal_queue_lifetime, bounce_queue_lifetime)
	Lifetime time.Duration `toml:"spool_lifetime"`

	// Messages is how many there may be; more are answered with 452.
	Messages int `toml:"spool_messages"`
}

// Defaults is what an empty file means: no spool.
func Defaults() Config {
	return Config{Lifetime: 5 * 24 * time.Hour, Messages: 10000}
}

// Validate tells bad of each key whose value cannot work.
func (c *Config) Validate(bad func(key, why string)) {
	if c.Dir != "" && !filepath.IsAbs(c.Dir) {
		bad("spool", `must be the whole path of a folder, such as "/var/spool/postern", since the server may be started anywhere`)
	}
	if c.Lifetime < time.Minute {
		bad("spool_lifetime", `is too short to try twice: write "1m" or more, or leave the key out for five days`)
	}
	if c.Messages < 1 {
		bad("spool_messages", `write 1 or more; to have no spool, leave out the key "spool"`)
	}
}
