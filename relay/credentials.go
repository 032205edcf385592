package relay

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/emersion/go-sasl"
)

// credentials are what we prove ourselves with to a hop that offers AUTH.
// They cannot be printed or logged by accident.
type credentials struct{ user, password string }

func (credentials) String() string   { return "(hidden)" }
func (credentials) GoString() string { return "(hidden)" }

// longestCredentials is far more than user and password need.
const longestCredentials = 4 << 10

// readCredentials reads the file. Its errors name the file, never what is in
// it.
func readCredentials(name string) (*credentials, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("relay.credentials: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("relay.credentials: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o007 != 0 {
		return nil, fmt.Errorf("relay.credentials: %s has mode %04o, so that everybody on this machine may read the password or change it: chmod o= %s", name, mode, name)
	}
	text, err := io.ReadAll(io.LimitReader(f, longestCredentials+1))
	if err != nil {
		return nil, fmt.Errorf("relay.credentials: %w", err)
	}
	c, err := parseCredentials(text)
	if err != nil {
		return nil, fmt.Errorf("relay.credentials: %s: %w", name, err)
	}
	return c, nil
}

func parseCredentials(text []byte) (*credentials, error) {
	if len(text) > longestCredentials {
		return nil, errors.New("the file is too long to hold just a user and a password")
	}
	lines := strings.Split(strings.TrimRight(string(text), "\r\n"), "\n")
	user, password, ok := strings.Cut(strings.TrimSuffix(lines[0], "\r"), ":")
	if len(lines) == 2 {
		user, password, ok = strings.TrimSuffix(lines[0], "\r"), lines[1], true
	}
	// NUL separates the fields of PLAIN.
	if len(lines) > 2 || !ok || user == "" || password == "" || strings.ContainsRune(user+password, 0) {
		return nil, errors.New(`write "user:password" on one line, or the user on the first line and the password on the second`)
	}
	return &credentials{user, password}, nil
}

// mechanism picks what to authenticate with from what the hop offers, or nil.
func (c *credentials) mechanism(offered string) sasl.Client {
	has := map[string]bool{}
	for name := range strings.FieldsSeq(strings.ToUpper(offered)) {
		has[name] = true
	}
	switch {
	case has[sasl.Plain]:
		return sasl.NewPlainClient("", c.user, c.password)
	case has[sasl.Login]:
		return sasl.NewLoginClient(c.user, c.password)
	}
	return nil
}
