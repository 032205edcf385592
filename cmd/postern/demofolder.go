package main

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"postern/certs"
	"postern/cmd/postern/internal/process"
	"postern/server/auth/hash"
	"postern/server/auth/userfile"
)

const (
	demoUser            = "demo" // may send through the demo
	demoCertificateTime = 365 * 24 * time.Hour
)

// A demoFolder holds what the demo needs. It is made once and then kept,
// whatever its owner has changed in it.
type demoFolder struct{ Dir string }

func (f demoFolder) path(name string) string { return filepath.Join(f.Dir, name) }
func (f demoFolder) config() string          { return f.path("config.toml") }
func (f demoFolder) cert() string            { return f.path("cert.pem") }
func (f demoFolder) key() string             { return f.path("key.pem") }
func (f demoFolder) users() string           { return f.path("users") }
func (f demoFolder) mail() string            { return f.path("mail") }
func (f demoFolder) secret() string          { return f.path("password.txt") }

// openDemoFolder makes what is missing in dir. Only its owner may look into it.
func openDemoFolder(dir string, ports demoPorts) (demoFolder, error) {
	dir, err := filepath.Abs(dir) // for the paths in config.toml
	if err != nil {
		return demoFolder{}, err
	}
	f := demoFolder{Dir: dir}
	if err := os.MkdirAll(f.mail(), 0o700); err != nil {
		return f, err
	}
	for _, part := range []struct {
		file string
		make func() error
	}{
		{f.cert(), f.makeCertificate},
		{f.secret(), f.makeUser},
		{f.config(), func() error { return writeNew(f.config(), f.configText(ports)) }},
	} {
		if _, err := os.Lstat(part.file); err == nil {
			continue
		}
		if err := part.make(); err != nil {
			return f, fmt.Errorf("cannot prepare %s: %w", dir, err)
		}
	}
	return f, nil
}

// makeUser puts the user into the store last, so that a password that was
// written down is one that works.
func (f demoFolder) makeUser() error {
	password := rand.Text()
	if err := f.addUser(password); err != nil {
		return err
	}
	return writeNew(f.secret(), password+"\n")
}

// password is what makeUser has written down.
func (f demoFolder) password() (string, error) {
	text, err := os.ReadFile(f.secret())
	return strings.TrimSpace(string(text)), err
}

func (f demoFolder) addUser(password string) error {
	hashed, err := hash.New(hash.Schemes()[0], password)
	if err != nil {
		return err
	}
	return userfile.SetPassword(f.users(), demoUser, hashed)
}

// makeCertificate writes the key first: openDemoFolder looks for the
// certificate.
func (f demoFolder) makeCertificate() error {
	cert, key, err := certs.SelfSigned([]string{"localhost", "127.0.0.1", "::1"}, demoCertificateTime)
	if err != nil {
		return err
	}
	_ = os.Remove(f.key()) // of an attempt that failed between the two
	return errors.Join(writeNew(f.key(), string(key)), writeNew(f.cert(), string(cert)))
}

// configText is a configuration that serve understands, too. The paths are
// absolute, so it works from everywhere until the folder is moved.
func (f demoFolder) configText(ports demoPorts) string {
	return fmt.Sprintf(`# Made by "postern demo", which keeps it from now on: change it as you like.
# All keys, with their defaults, are explained in config.toml.example.
#
# The demo itself chooses its ports anew whenever it starts, and its next hop is
# a mailbox of its own. Listeners and next_hops are for
# "postern serve --config %s".

[server]
hostname = "localhost"

[[listener]]
name = "submission"
address = %s
mode = "starttls"

[[listener]]
name = "submissions"
address = %s
mode = "tls"

[[tls.certificates]]
cert = %s
key = %s

[[auth.stores]]
kind = "userfile"
path = %s

[policy]
recipient = "permit_sasl_authenticated, reject"

[relay]
next_hops = ["smtp://localhost:25"]
`, process.ShellQuote(f.config()),
		tomlList(ports.submissionAddresses()), tomlList(ports.submissionsAddresses()),
		tomlString(f.cert()), tomlString(f.key()), tomlString(f.users()))
}

// writeNew writes a file for its owner alone, and never over another one.
func writeNew(path, text string) error {
	w, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already; move it away", path)
	}
	if err != nil {
		return err
	}
	_, err = w.WriteString(text)
	return errors.Join(err, w.Close())
}

func tomlList(items []string) string {
	quoted := make([]string, len(items))
	for i, s := range items {
		quoted[i] = tomlString(s)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// tomlString writes a basic string of TOML: it has the escapes of JSON.
func tomlString(s string) string {
	text, _ := json.Marshal(s) // a string can always be written
	return string(text)
}
