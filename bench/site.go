package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"

	"postern/certs"
)

// The users, all with the same password. The hash of slowUser has bcrypt cost 10; the
// hashes of fastUser and of the single users, which log in once each, have cost 4.
const (
	password = "correct horse battery staple"
	slowUser = "alice"
	fastUser = "carol"
	singles  = 12000
)

func singleUser(i int) string { return fmt.Sprintf("single%05d", i) }

// A site is what all servers of a run share: a folder with the certificate and the users,
// and the next hop.
type site struct {
	dir     string
	postern string
	sink    string // address
	hop     *exec.Cmd
	rounds  int // numbers the folders of servers
}

func newSite(ctx context.Context, postern string) (*site, error) {
	dir, err := os.MkdirTemp("", "postern-bench-")
	if err != nil {
		return nil, err
	}
	s := &site{dir: dir, postern: postern}
	err = errors.Join(os.Chmod(dir, 0o755), s.certificate(), s.users(), s.startSink(ctx))
	if err != nil {
		s.close(false)
		return nil, err
	}
	return s, nil
}

func (s *site) close(keep bool) {
	_ = os.Remove(pamService) // exists if saslauthd was among the servers
	if s.hop != nil {
		_ = s.hop.Process.Kill()
		_ = s.hop.Wait()
	}
	if keep {
		fmt.Fprintln(os.Stderr, "kept:", s.dir)
		return
	}
	_ = os.RemoveAll(s.dir)
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

// folder makes a folder for a server, with these folders inside it.
func (s *site) folder(subs ...string) (string, error) {
	s.rounds++
	dir := s.path(fmt.Sprintf("server%d", s.rounds))
	for _, sub := range append(subs, "") {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// certificate writes a self-signed certificate with an ECDSA P-256 key.
func (s *site) certificate() error {
	cert, key, err := certs.SelfSigned([]string{"localhost"}, 30*24*time.Hour)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(s.path("cert.pem"), cert, 0o644),
		os.WriteFile(s.path("key.pem"), key, 0o600),
		openTo("nobody", s.path("key.pem")), // postern reads it after it has given up root
	)
}

// clientTLS returns the configuration of a round's clients, with the same key
// exchange for every server. Each connection does a whole handshake, except
// with -resume: then all clients share one session.
func (s *site) clientTLS(l load) *tls.Config {
	c := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.X25519}}
	if l.hybrid {
		c.CurvePreferences = []tls.CurveID{tls.X25519MLKEM768, tls.X25519}
	}
	if l.resume {
		c.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	}
	return c
}

// users writes the file of lines "user:hash" that every server reads.
func (s *site) users() error {
	names := []string{fastUser}
	for i := range singles {
		names = append(names, singleUser(i))
	}
	lines := make([]string, len(names)+1)
	var all sync.WaitGroup
	share := len(names)/runtime.NumCPU() + 1
	for from := 0; from < len(names); from += share {
		all.Go(func() {
			for i := from; i < min(from+share, len(names)); i++ {
				lines[i] = userLine(names[i], bcrypt.MinCost)
			}
		})
	}
	lines[len(names)] = userLine(slowUser, bcrypt.DefaultCost)
	all.Wait()
	return os.WriteFile(s.path("users"), []byte(strings.Join(lines, "")), 0o644)
}

func userLine(name string, cost int) string {
	hash, err := bcrypt.GenerateFromPassword([]byte(password), cost)
	if err != nil {
		return "" // impossible with this password and these costs
	}
	return name + ":" + string(hash) + "\n"
}

func (s *site) startSink(ctx context.Context) error {
	s.sink = freeAddr()
	s.hop = exec.Command("smtp-sink", "-u", "postfix", "-m", "5000", s.sink, "4096")
	log, err := os.Create(s.path("sink.log")) // it has a line for each idle client
	if err != nil {
		return err
	}
	defer log.Close()
	s.hop.Stderr = log
	if err := s.hop.Start(); err != nil {
		return fmt.Errorf("smtp-sink of Debian's package postfix: %w", err)
	}
	return (&target{addr: s.sink}).await(ctx, 10*time.Second)
}

// freeAddr returns an unused address on loopback.
func freeAddr() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "127.0.0.1:2525"
	}
	defer l.Close()
	return l.Addr().String()
}

func port(addr string) string {
	_, p, _ := net.SplitHostPort(addr)
	return p
}

// fill writes text to a file, with each placeholder of values replaced by the
// value that follows it.
func fill(path, text string, values ...string) error {
	return os.WriteFile(path, []byte(strings.NewReplacer(values...).Replace(text)), 0o644)
}

// openTo makes a user the owner of a file or folder.
func openTo(name, path string) error {
	owner, err := user.Lookup(name)
	if err != nil {
		return err
	}
	uid, _ := strconv.Atoi(owner.Uid)
	return os.Chown(path, uid, -1)
}
