package app

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"postern/cmd/postern/internal/config"
	"postern/cmd/postern/internal/process"
	"postern/internal/durable"
	"postern/internal/fileperm"
	"postern/server/auth"
	"postern/server/auth/hash"
	"postern/server/auth/throttle"
)

// The files of the state folder. Each is replaced as a whole, by renaming a file that has
// been written to the disk: after a crash, it is the old or the new one.
const (
	secretFile = "secret"      // 32 random octets, from which the other keys are derived
	pairsFile  = "known-pairs" // what throttle.Save returns

	secretSize = 32
	maxSecret  = 128 // bytes of secretFile, which is hexadecimal
)

// saveInterval is how often the known pairs are written at most. A crash loses those of
// that time, which costs their users a delay at the most.
const saveInterval = time.Minute

// state keeps the known pairs, and the secret of SCRAM's decoys, in the state folder.
type state struct {
	app    *App
	dir    string
	end    context.CancelFunc
	ended  chan struct{}
	failed bool // the last attempt to save has failed
}

// openState reads the state folder at start. A file that is damaged is reported and
// replaced: it contains nothing that the server cannot do without. A folder that cannot be
// used is an error if the configuration names it, and otherwise reported.
func (a *App) openState(cfg *config.Config) error {
	dir := cfg.StateDir()
	if a.newest != nil || dir == "" {
		return nil
	}
	switch err := CheckStateDir(dir); {
	case err != nil && cfg.Server.StateDir != "":
		return err
	case err != nil:
		a.log.Error("state folder not used; nothing survives a restart", "err", err)
		return nil
	}
	s := &state{app: a, dir: dir, ended: make(chan struct{})}
	secret := s.secret()
	saved, err := s.read(pairsFile, throttle.MaxSaved)
	if err == nil {
		err = a.throttle.Load(hash.Key(derive(secret, "known pairs")), saved)
	}
	s.ignored(pairsFile, err)
	a.scram = auth.NewScram(a.throttle, derive(secret, "SCRAM decoys"))
	a.state = s
	ctx, end := context.WithCancel(context.Background())
	s.end = end
	go s.run(ctx)
	return nil
}

// CheckStateDir returns an error if the folder cannot be used.
func CheckStateDir(dir string) error {
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		err = errors.New(dir + " is not a folder")
	}
	if err == nil {
		err = fileperm.Check(dir, fileperm.Public)
	}
	if err == nil {
		var f *os.File
		if f, err = os.CreateTemp(dir, "check-*"); err == nil {
			err = errors.Join(f.Close(), os.Remove(f.Name()))
		}
	}
	if err != nil {
		return fmt.Errorf("server.state_dir: %w; create the folder for %s: install -d -m 0700 -o %[2]s %s", err, process.CurrentAccount().Name, dir)
	}
	return nil
}

// derive returns a key for one purpose.
func derive(secret []byte, purpose string) []byte {
	key, err := hkdf.Key(sha256.New, secret, nil, "postern "+purpose, secretSize)
	if err != nil {
		panic(err) // only for lengths that SHA-256 does not have
	}
	return key
}

// secret returns the secret of the folder, or a new one if there is none.
func (s *state) secret() []byte {
	text, err := s.read(secretFile, maxSecret)
	if text != nil {
		secret, decodeErr := hex.DecodeString(strings.TrimSpace(string(text)))
		if decodeErr == nil && len(secret) == secretSize {
			return secret
		}
		err = fmt.Errorf("it must be %d hexadecimal digits", 2*secretSize)
	}
	s.ignored(secretFile, err)
	secret := make([]byte, secretSize)
	rand.Read(secret) // never fails: crypto/rand ends the process instead
	s.saved(secretFile, s.write(secretFile, []byte(hex.EncodeToString(secret)+"\n")))
	return secret
}

// read returns the content of a file, nil if there is none.
func (s *state) read(name string, limit int64) ([]byte, error) {
	content, err := fileperm.ReadFile(filepath.Join(s.dir, name), fileperm.Secret, "a regular file", limit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return content, err
}

// write replaces a file.
func (s *state) write(name string, content []byte) error {
	path := filepath.Join(s.dir, name)
	_ = os.Remove(path + ".new") // of a process that has crashed
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return durable.Replace(f, path, content)
}

// run saves the known pairs when they have changed, until close.
func (s *state) run(ctx context.Context) {
	defer close(s.ended)
	ticker := time.NewTicker(saveInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			s.save()
		case <-ctx.Done():
			return
		}
	}
}

func (s *state) save() {
	if s.failed || s.app.throttle.Changed() {
		s.saved(pairsFile, s.write(pairsFile, s.app.throttle.Save()))
	}
}

// close saves for the last time. A nil state has nothing to save.
func (s *state) close() {
	if s == nil {
		return
	}
	s.end()
	<-s.ended
	s.save()
}

// ignored logs that a file was not used.
func (s *state) ignored(name string, err error) {
	if err != nil {
		s.app.log.Error("state file ignored; the server starts without it", "path", filepath.Join(s.dir, name), "err", err)
	}
}

// saved logs a failure once, until a file has been saved again.
func (s *state) saved(name string, err error) {
	if err != nil && !s.failed {
		s.app.log.Error("state file cannot be saved; a restart will lose what is in memory", "path", filepath.Join(s.dir, name), "err", err)
	}
	s.failed = err != nil
}
