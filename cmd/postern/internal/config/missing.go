package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"postern/internal/fileperm"
)

// imageFile is the configuration file of the image, below the folder to mount.
const imageFile = "/etc/postern/config.toml"

// missingFile says what to do if there is no configuration file. In a container the reason is
// nearly always a mount: a server with defaults in its place would accept no login, or, as a
// demo, accept mail and deliver none.
func missingFile(path string) error {
	if path != imageFile || !fileperm.InContainer() {
		return fmt.Errorf("there is no configuration file %s; copy config.toml.example to it "+
			"(an empty file is valid and means the defaults), or name another file with --config", path)
	}
	return errors.New(missingMount(path))
}

// missingMount returns three lines: what is missing, what to mount, and how to try the image
// without a configuration.
func missingMount(path string) string {
	dir := filepath.Dir(path)
	why := fmt.Sprintf("there is no configuration file %s in this container", path)
	entries, err := os.ReadDir(dir)
	switch {
	case err == nil && len(entries) == 0:
		why += fmt.Sprintf(", and %s is empty: nothing is mounted there, or a folder of the host that is empty or misspelled", dir)
	case err == nil:
		why += fmt.Sprintf(", although %s has other files: the mounted folder is not the one with %s", dir, filepath.Base(path))
	}
	return fmt.Sprintf(`%s
mount the folder with config.toml, users and tls/, readable for user %d: docker run -v "$PWD/etc:%s:ro" ... (an empty config.toml means the defaults)
or try postern without a configuration, with mail that is not delivered: docker run -p 1587:587 IMAGE demo`, why, os.Geteuid(), dir)
}
