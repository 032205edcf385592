package demo

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"postern/certs"
	"postern/cmd/postern/internal/process"
	"postern/server"
	"postern/server/auth/hash"
	"postern/server/auth/userfile"
)

const (
	user            = "demo" // may send through the demo
	certificateTime = 365 * 24 * time.Hour
)

// A folder has the files of the demo. They are created once, and later runs do not
// change them.
type folder struct{ Dir string }

func (f folder) path(name string) string { return filepath.Join(f.Dir, name) }
func (f folder) config() string          { return f.path("config.toml") }
func (f folder) cert() string            { return f.path("cert.pem") }
func (f folder) key() string             { return f.path("key.pem") }
func (f folder) users() string           { return f.path("users") }
func (f folder) mail() string            { return f.path("mail") }
func (f folder) secret() string          { return f.path("password.txt") }

// openFolder creates the files that are missing in dir. Only the owner can read
// them.
func openFolder(dir string, p ports) (folder, error) {
	dir, err := filepath.Abs(dir) // for the paths in config.toml
	if err != nil {
		return folder{}, err
	}
	f := folder{Dir: dir}
	if err := os.MkdirAll(f.mail(), 0o700); err != nil {
		return f, err
	}
	for _, part := range []struct {
		file   string
		create func() error
	}{
		{f.cert(), f.createCertificate},
		{f.secret(), f.createUser},
		{f.config(), func() error { return create(f.config(), f.configText(p)) }},
	} {
		if _, err := os.Lstat(part.file); err == nil {
			continue
		}
		if err := part.create(); err != nil {
			return f, fmt.Errorf("cannot prepare %s: %w", dir, err)
		}
	}
	return f, nil
}

// createUser adds the user before it writes the password, so that a password in the
// file is valid.
func (f folder) createUser() error {
	password := rand.Text()
	hashed, err := hash.New(hash.Schemes()[0], password)
	if err != nil {
		return err
	}
	if err := userfile.SetPassword(f.users(), user, hashed, nil); err != nil {
		return err
	}
	return create(f.secret(), password+"\n")
}

// password returns the password that createUser has written.
func (f folder) password() (string, error) {
	text, err := os.ReadFile(f.secret())
	return strings.TrimSpace(string(text)), err
}

// createCertificate writes the key first, since openFolder looks for the
// certificate.
func (f folder) createCertificate() error {
	cert, key, err := certs.SelfSigned([]string{"localhost", "127.0.0.1", "::1"}, certificateTime)
	if err != nil {
		return err
	}
	_ = os.Remove(f.key()) // left by a run that failed between the two
	return errors.Join(create(f.key(), string(key)), create(f.cert(), string(cert)))
}

// configText returns a configuration that serve accepts, too. Its paths are
// absolute, so that it can be used from any folder until this one is moved.
func (f folder) configText(p ports) string {
	return fmt.Sprintf(`# Written by "postern demo", which does not change it again: edit it as you like.
# config.toml.example explains all keys and their defaults.
#
# The demo chooses its ports at each start, and its next hop is a built-in
# mailbox. The listeners and next_hops below are used by
# "postern serve --config %s".

[server]
hostname = "localhost"
state_dir = %s

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
`, process.ShellQuote(f.config()), tomlValue(f.Dir),
		tomlValue(p.submissionAddresses()), tomlValue(p.submissionsAddresses()),
		tomlValue(f.cert()), tomlValue(f.key()), tomlValue(f.users()))
}

// tomlValue writes a string or a list of strings. TOML has the escapes of JSON.
func tomlValue(v any) string {
	text, _ := json.Marshal(v) // cannot fail for strings
	return string(text)
}

// create writes a file that only its owner can read. It never replaces a file.
func create(path, text string) error {
	w, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists already; move it away", path)
	}
	if err != nil {
		return err
	}
	_, err = w.WriteString(text)
	return errors.Join(err, w.Close())
}

// ports are the two ports of the demo.
type ports struct {
	Submission, Submissions int
	Public                  bool   // on all addresses, not only on loopback
	Why                     string // why not 587 and 465; empty if it is these
}

// choosePorts returns 587 and 465, or else the first pair of 1587 and 1465, 2587 and
// 2465, and so on that this user can bind on loopback, or on all addresses.
func choosePorts(public bool) (ports, error) {
	var first error
	for offset := 0; offset < 60_000; offset += 1000 {
		p := ports{Submission: 587 + offset, Submissions: 465 + offset, Public: public}
		err := errors.Join(tryListen(p.submissionAddresses()), tryListen(p.submissionsAddresses()))
		if err != nil && first == nil {
			first = err
		}
		if err != nil {
			continue
		}
		if op := (*net.OpError)(nil); errors.As(first, &op) {
			first = op.Err
		}
		if first != nil {
			p.Why = fmt.Sprintf("(The ports 587 and 465 cannot be used: %v.)", first)
		}
		return p, nil
	}
	return ports{}, fmt.Errorf("no free ports: %w", first)
}

func (p ports) submissionAddresses() []string  { return p.addresses(p.Submission) }
func (p ports) submissionsAddresses() []string { return p.addresses(p.Submissions) }

func (p ports) addresses(port int) []string {
	if p.Public {
		return []string{net.JoinHostPort("", strconv.Itoa(port))}
	}
	return loopback(port)
}

func (p ports) listeners() []server.Listener {
	submission, submissions := server.NewListener(), server.NewListener()
	submission.Name, submission.Address = "submission", p.submissionAddresses()
	submissions.Name, submissions.Address, submissions.Mode = "submissions", p.submissionsAddresses(), server.TLS
	return []server.Listener{submission, submissions}
}

// loopback returns the addresses of "localhost". Other machines cannot connect to
// them.
func loopback(port int) []string {
	number := strconv.Itoa(port)
	addresses := []string{net.JoinHostPort("127.0.0.1", number)}
	if tryListen([]string{"[::1]:0"}) == nil {
		addresses = append(addresses, net.JoinHostPort("::1", number))
	}
	return addresses
}

// tryListen binds each address for a moment. Another process can bind it before the
// server does; the server then reports that.
func tryListen(addresses []string) error {
	for _, a := range addresses {
		l, err := net.Listen("tcp", a)
		if err != nil {
			return err
		}
		if err := l.Close(); err != nil {
			return err
		}
	}
	return nil
}
