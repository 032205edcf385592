package config

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"postern/server"
)

// defaultRuntimeDir is the folder of the control socket if systemd gives none.
const defaultRuntimeDir = "/run/postern"

// ControlPath returns the path of the control socket for the server: that of the
// configuration, or in the folder of systemd, or in the default folder if the process can
// write there; "" if there is none.
func (c *Config) ControlPath() string {
	systemd, _, _ := strings.Cut(os.Getenv("RUNTIME_DIRECTORY"), ":")
	switch {
	case c.Server.Control == server.ControlOff:
		return ""
	case c.Server.Control != "":
		return c.Server.Control
	case systemd != "":
		return filepath.Join(systemd, "control")
	case unix.Access(defaultRuntimeDir, unix.W_OK|unix.X_OK) == nil:
		return filepath.Join(defaultRuntimeDir, "control")
	}
	return ""
}

// FindControl returns the path of the control socket for a client. It is found in a file with
// mistakes, too, since these say nothing about the server that is running. configured reports
// whether the file has the path.
func FindControl(file string) (path string, configured bool) {
	path, set := filepath.Join(defaultRuntimeDir, "control"), ""
	if text, err := read(file, openFile); err == nil {
		if e, ok := locate(text)["server.control"]; ok {
			set, _ = parsed(e.value.of(text)).(string)
		}
	}
	switch {
	case set == server.ControlOff:
		return "", true
	case filepath.IsAbs(set):
		return set, true
	}
	return path, false
}
