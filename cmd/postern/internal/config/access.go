package config

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"postern/internal/access"
	"postern/internal/fileperm"
)

// dnsPort serves TCP for answers that are too long for UDP (RFC 7766).
const dnsPort = 53

// Access returns the files, folders and ports that the server of this configuration
// uses, in the order of the sections. file is the configuration file itself; "" leaves
// it out.
func (c *Config) Access(file string) *access.List {
	list := &access.List{Ports: []access.Port{{Key: "DNS", Port: dnsPort}}}
	list.Read("--config", file)
	list.Write("server.stage_dir", c.StageFolder())
	list.Write("server.state_dir", c.StateDir())
	for path, s := range c.TLSSections() {
		s.Access(below(path), list)
	}
	for path, s := range c.AuthSections() {
		for i, store := range s.Stores {
			store.Backend.Access(below(fmt.Sprintf("%s.stores[%d]", path, i)), list)
		}
	}
	for path, s := range c.PolicySections() {
		s.Access(path, list)
	}
	list.Tree("relay.spool", c.Relay.Dir)
	for path, s := range c.RelaySections() {
		s.Access(below(path), list)
	}
	return list
}

// cacheFolder is that of CacheDirectory= in the systemd unit.
const cacheFolder = "/var/cache/postern"

// StageFolder returns the folder for large messages in transit: that of server.stage_dir, or the
// one that systemd has made for the service, or the system's temporary folder. "postern check"
// finds the second one without systemd's variable, as the user of the service.
func (c *Config) StageFolder() string {
	cache, _, _ := strings.Cut(os.Getenv("CACHE_DIRECTORY"), ":") // systemd.exec(5): a list
	if cache == "" && unix.Access(cacheFolder, unix.W_OK|unix.X_OK) == nil {
		cache = cacheFolder
	}
	return cmp.Or(c.Server.StageDir, cache, os.TempDir())
}

// defaultStateDir is what packages and the image create. The systemd unit has the same folder
// as StateDirectory.
const defaultStateDir = "/var/lib/postern"

// StateDir returns the folder for what survives a restart: that of the configuration, or that
// of systemd, or the default if the process can write there; "" if there is none.
func (c *Config) StateDir() string {
	systemd, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":")
	switch {
	case c.Server.StateDir != "":
		return c.Server.StateDir
	case systemd != "":
		return systemd
	case unix.Access(defaultStateDir, unix.W_OK|unix.X_OK) == nil:
		return defaultStateDir
	}
	return ""
}

// below returns a function that makes the full name of a key of the section path.
func below(path string) func(key string) string {
	return func(key string) string { return join(path, key) }
}

// specialFiles returns the keys that name something other than a regular file. Opening
// a named pipe blocks until another process writes to it, and no signal ends that: the
// server would neither start nor stop. A file that is missing or cannot be read is
// reported by the part that opens it.
func (c *Config) specialFiles() (all []problem) {
	seen := make(map[string]bool) // a section of a listener repeats what it inherits
	for _, f := range c.Access("").Reads {
		if err := regular(f.Path); err != nil && !seen[f.Path] {
			seen[f.Path] = true
			all = append(all, problem{path: f.Key, why: err.Error()})
		}
	}
	return all
}

// regular refuses what exists and is not a regular file.
func regular(path string) error {
	info, err := os.Stat(path)
	if err != nil || info.Mode().IsRegular() {
		return nil
	}
	kind := "a device"
	switch mode := info.Mode(); {
	case mode.IsDir():
		kind = "a directory"
	case mode&fs.ModeNamedPipe != 0:
		kind = "a named pipe (FIFO)"
	case mode&fs.ModeSocket != 0:
		kind = "a socket"
	}
	if info.IsDir() && fileperm.InContainer() {
		return fmt.Errorf("%s is a directory and not a regular file: the container engine creates one if the file of a mount does not exist "+
			"on the host; correct the path before the colon of that mount, and remove the directory that was created there", path)
	}
	return fmt.Errorf("%s is %s and not a regular file; name a file that can be read repeatedly", path, kind)
}
